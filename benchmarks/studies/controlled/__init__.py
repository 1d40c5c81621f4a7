"""Patches whose cue lies in known bands of texture."""
