"""TS2G-KD: a lesion detector guides an adapter between resolutions."""
