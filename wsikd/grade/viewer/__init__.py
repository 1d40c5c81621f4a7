"""Slides and grade maps in a browser."""
