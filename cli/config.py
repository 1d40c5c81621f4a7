"""``wsikd config``: a configuration as wsikd understands it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Check a configuration and print it in full.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting.")
def config(file: Path, overrides: tuple[str, ...]) -> None:
    """Check a configuration FILE and print it with every default filled in."""
    from wsikd.core.config import dump_config
    from wsikd.learn.engine.configurations import load_settings

    click.echo(dump_config(load_settings(file, list(overrides))), nl=False)
