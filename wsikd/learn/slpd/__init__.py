"""SLPD: a region encoder trained without labels."""
