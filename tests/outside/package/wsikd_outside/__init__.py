"""A package outside wsikd that adds one thing of each kind, each in one file."""
