"""The directories and tile tables of TIFF files."""
