"""Annotations of slides: regions and masks, with a class for each."""
