"""Networks that read a whole slide or a whole region."""
