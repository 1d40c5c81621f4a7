"""Labelled patches, their splits and their augmentation."""
