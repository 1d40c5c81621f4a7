"""A file on disk becomes pixels with a scale."""
