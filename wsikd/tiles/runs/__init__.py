"""Tiling many slides: what is asked, who does it, and the record of it."""
