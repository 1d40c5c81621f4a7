"""Viewer of slides and grade maps in a browser."""
