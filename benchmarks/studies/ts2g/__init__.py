"""TS2G-KD: detector, adapters, bag networks and the drop-in check on drawn slides."""
