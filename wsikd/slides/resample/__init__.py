"""Area averages at any factor."""
