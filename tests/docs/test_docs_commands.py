"""Every command has a page that explains every argument, and names no option that does not exist."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from edgehone.cli.main import build_parser, command_names

PAGES = Path(__file__).parents[2] / "docs" / "commands"


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name → parser of a parser's commands or verbs."""
    found = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {name: child for action in found for name, child in action.choices.items()}


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every spelling of every argument of a parser and of its verbs, without --help."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from arguments(child)
        else:
            yield from action.option_strings or [str(action.metavar or action.dest)]


COMMANDS = subparsers(build_parser())


def explained(page: str) -> set[str]:
    """What the first column of the page's tables names, in backticks."""
    rows = re.findall(r"^\| (`[^|]+`) \| \S.{5,} \|$", page, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("name", command_names())
def test_every_argument_is_explained_and_no_other(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert page.startswith(f"# edgehone {name}\n")
    assert explained(page) == set(arguments(COMMANDS[name]))


@pytest.mark.parametrize("name", command_names())
def test_every_verb_is_explained(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert [verb for verb in subparsers(COMMANDS[name]) if f"## edgehone {name} {verb}\n" not in page] == []


@pytest.mark.parametrize("name", command_names())
def test_the_examples_parse_and_stand_on_the_page(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    for line in import_module(f"edgehone.cli.{name}").examples:
        program, *words = shlex.split(line)
        assert program == "edgehone"
        assert build_parser().parse_args(words).command == name
        assert f"\n{line}\n" in page


@pytest.mark.parametrize("page", sorted(PAGES.parent.rglob("*.md")), ids=lambda page: page.name)
def test_every_command_line_in_the_docs_parses(page: Path) -> None:
    for line in re.findall(r"^(?: {4})?(?:\$ )?(edgehone .+)$", page.read_text(), re.MULTILINE):
        words = shlex.split(re.split(r" [&<>|] ?", line)[0], comments=True)[1:]
        if words[0] in COMMANDS and not any(word.isupper() or "..." in word for word in words):
            build_parser().parse_args(words)
