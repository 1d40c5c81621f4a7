"""Each command's help has an example that it understands; an unknown command gets a suggestion."""

import shlex

import click
import pytest
from click.testing import CliRunner
from wsikd.cli.examples import EXAMPLES, SYNONYMS
from wsikd.cli.main import main


def test_every_command_has_an_example():
    assert set(EXAMPLES) == set(main.commands)
    assert set(SYNONYMS.values()) <= set(main.commands)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_understood_and_shown(name):
    program, command, *arguments = shlex.split(EXAMPLES[name])
    assert (program, command) == ("wsikd", name)
    found = main.commands[name]
    if isinstance(found, click.Group):
        found = found.commands[arguments.pop(0)]
    context = click.Context(found, info_name=name)
    given, rest, _ = found.make_parser(context).parse_args(arguments)
    assert not rest
    missing = [p.name for p in found.params if p.required and given.get(p.name) in (None, [], ())]
    assert missing == []
    result = CliRunner().invoke(main, [name, "--help"])
    assert EXAMPLES[name] in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("trian", "wsikd distill"), ("train", "wsikd distill"), ("tlie", "wsikd tile"),
     ("predict", "wsikd infer"), ("qqqq", "wsikd --help")],
)  # fmt: skip
def test_unknown_commands_get_a_suggestion(typed, meant):
    result = CliRunner().invoke(main, [typed, "-o", "x"])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert "No such command" in line
    assert meant in line
