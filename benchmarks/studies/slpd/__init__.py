"""SLPD: region encoders with and without prototypes, and what each is worth."""
