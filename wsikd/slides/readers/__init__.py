"""Slide files of every kind behind one interface."""
