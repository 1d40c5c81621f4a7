"""Slide classifiers on bags (multiple-instance learning)."""
