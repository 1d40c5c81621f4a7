"""HDKD: how a distilled student depends on the number of training slides."""
