"""Escalation: the teacher reads the fields that the student is unsure of."""
