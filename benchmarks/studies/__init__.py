"""Research that is run from a checkout: one study a folder."""
