"""Pixels become patches at several magnifications."""
