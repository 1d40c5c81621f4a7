"""Help of a command with many options, under headings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


class Sectioned(click.Command):
    """A command whose help lists options under headings, those in no section first.

    Args:
        args: arguments of ``click.Command``.
        sections: heading -> names of parameters, with spaces between.
        more: arguments of ``click.Command``.
    """

    def __init__(self, *args: Any, sections: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **more)
        self.sections = {title: names.split() for title, names in sections.items()}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        heading = {name: title for title, names in self.sections.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {"Options": [], **{k: [] for k in self.sections}}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                rows[heading.get(parameter.name or "", "Options")].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
