"""The public API of ``import wsikd``, built on the packages below."""
