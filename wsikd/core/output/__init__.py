"""Output of wsikd: names, markers, locks, and the only code that deletes files."""
