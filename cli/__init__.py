"""Command line of wsikd, installed as wsikd.cli."""
