"""What the studies' commands share: options, errors in one line and exit codes as of ``wsikd``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from wsikd.cli.exits import check_working_directory, one_line_errors, refuse_twice
from wsikd.cli.start import LEVELS, begin

from wsikd.core.ranks import refuse_team

if TYPE_CHECKING:
    from collections.abc import Callable

OUTPUT = click.Option(
    ["-o", "--output"],
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder of the runs and of the tables. What is finished in it stays.",
)
CHANGES = click.Option(
    ["--set", "overrides"],
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the study. Repeatable.",
)
DEVICE = click.Option(["--device"], default="auto", show_default=True, help="auto, cpu or cuda:0.")
LOG_LEVEL = click.Option(
    ["--log-level"],
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="How much is logged on standard error.",
)


class StudyCommand(click.Command):
    """A command that works alone; whatever goes wrong becomes one line and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse an option that is given twice and holds one value."""
        refuse_twice(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the study."""
        level = ctx.params.pop("log_level")
        begin(level)
        logging.getLogger("benchmarks").setLevel(level.upper())
        with one_line_errors():
            check_working_directory()
            refuse_team("the study", "start it once")
            return super().invoke(ctx)


def study(*options: click.Parameter) -> Callable[[Callable[..., None]], click.Command]:
    """Make a study's command of a function.

    Args:
        options: of the command, beside ``--log-level``; the function takes their values.
    """
    return click.command(
        cls=StudyCommand,
        params=[*options, LOG_LEVEL],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
