"""Where a slide holds tissue."""
