"""The ``wsikd`` command."""

from __future__ import annotations

from typing import Any

import click

from wsikd.core.about import RESEARCH_USE
from wsikd.core.errors import ConfigError
from wsikd.core.workers.start import own_process

from .attend import attend
from .bench import bench
from .config import config
from .demo import demo
from .distill import distill
from .doctor import doctor
from .embed import embed
from .evaluate import evaluate
from .examples import EXAMPLES, suggestion
from .exits import CODES, check_working_directory, one_line_errors, refuse_twice
from .export import export
from .export_model import export_model
from .infer import infer
from .info import info
from .init import init
from .name import name
from .report import report
from .reproduce import reproduce
from .slides import slides
from .start import LEVELS, begin
from .tile import tile
from .tune import tune
from .view import view
from .watch import watch


class _Wsikd(click.Group):
    """The group; whatever goes wrong becomes one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        with one_line_errors(), own_process():
            check_working_directory()
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            remedy = suggestion(args[0], self.commands)
            raise ConfigError(f"wsikd {args[0]}", "No such command", remedy)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            refuse_twice(click.Context(command, ctx, name), rest)
        return name, command, rest


@click.group(
    cls=_Wsikd,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Exit codes: {CODES}. {RESEARCH_USE}",
)
@click.version_option(package_name="wsikd")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Lowest level of the messages on standard error.",
)
def main(log_level: str) -> None:
    """Distil a 10x teacher into a 2.5x student and grade whole-slide images with it."""
    begin(log_level)


COMMANDS = (
    info,
    tile,
    export,
    embed,
    distill,
    evaluate,
    attend,
    slides,
    tune,
    reproduce,
    infer,
    bench,
    demo,
)
for command in (*COMMANDS, watch, demo, report, view, export_model, name, init, config, doctor):
    command.epilog = f"Example: {EXAMPLES[command.name or '']}"
    main.add_command(command)
