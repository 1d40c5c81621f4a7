"""Batches become a student."""
