"""Many slides graded into one output folder."""
