"""Drawn slides with a known truth, for the demo, the self-test and the tests."""
