"""Checks that an image is brightfield RGB and that its data are intact."""
