"""Graders of patches: settings, construction, teacher cache and export."""
