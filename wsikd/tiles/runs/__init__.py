"""Tiling many slides: request, execution, and the record."""
