"""Networks that turn a patch or a region into a vector."""
