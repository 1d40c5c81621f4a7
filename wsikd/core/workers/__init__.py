"""Work in processes of its own, which may crash or hang."""
