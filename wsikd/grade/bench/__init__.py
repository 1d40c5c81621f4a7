"""Comparison of the time and the grades of teacher and students on the same slides."""
