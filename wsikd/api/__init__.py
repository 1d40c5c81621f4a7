"""The front door: what ``import wsikd`` offers, built on the packages below."""
