"""A slide and a student become a grade map."""
