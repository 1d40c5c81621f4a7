"""``python -m wsikd`` is the ``wsikd`` command."""

from wsikd.cli.main import main

main()
