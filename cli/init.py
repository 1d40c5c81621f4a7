"""``wsikd init``: a commented configuration to start from."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write commented configurations of a method.")
@click.argument("method", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to write to.  [default: here]",
)
def init(method: str | None, output: Path) -> None:
    """Write the configuration files of METHOD, with comments, one per stage.

    Without METHOD, list the methods.
    """
    from importlib.resources import files

    from wsikd.core.errors import ConfigError, OutputError
    from wsikd.core.registry import nearest
    from wsikd.core.run import write_text_atomic

    folders = {
        folder.name: folder
        for folder in files("wsikd.configs").iterdir()
        if folder.is_dir() and not folder.name.startswith(("_", "."))
    }
    for name, folder in list(folders.items()):
        if (own := folder / "recommended").is_dir():
            folders[f"{name}/recommended"] = own
    methods = {
        name: sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")),
                     key=lambda f: f.name)
        for name, folder in folders.items()
    }  # fmt: skip
    if method is None:
        for name in sorted(methods):
            click.echo(f"{name}: {', '.join(f.name for f in methods[name])}")
        return
    if method not in methods:
        raise ConfigError(method, "no such method", nearest(method, methods))
    texts = {output / file.name: file.read_text(encoding="utf-8") for file in methods[method]}
    # One that is there as it would be written is what an interrupted command has left.
    missing = [target for target, text in texts.items() if not _holds(target, text)]
    if not missing:
        raise OutputError(next(iter(texts)), "already exists", "choose another folder with -o")
    for target in missing:
        if target.exists() or target.is_symlink():
            raise OutputError(target, "already exists", "choose another folder with -o")
    for target in missing:
        write_text_atomic(target, texts[target])
    for target in texts:
        click.echo(target)


def _holds(file: Path, text: str) -> bool:
    """Whether a file has exactly this content."""
    try:
        return file.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False
