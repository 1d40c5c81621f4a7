"""The time and the grades of student and teacher on the same slides."""
