"""Doubtful fields go to the teacher."""
