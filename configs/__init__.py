"""Configuration files that travel with the package."""
