"""docs/errors has one page for every code, no code means two things, and the messages it quotes are ones we say."""

from __future__ import annotations

import ast
import errno
import importlib
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgehone
import edgehone_agent
from edgehone.errors import EXIT_BUDGET_UNMET, EdgehoneError

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {page.stem: page for page in (DOCS / "errors").glob("EH*.md")}


def all_errors() -> list[type[EdgehoneError]]:
    """Every error class of both packages; importing all their modules is what makes them known."""
    for package in (edgehone, edgehone_agent):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    return [EdgehoneError, *_below(EdgehoneError)]


def _below(kind: type[EdgehoneError]) -> Iterator[type[EdgehoneError]]:
    for child in kind.__subclasses__():
        if child.__module__.split(".")[0] in ("edgehone", "edgehone_agent"):
            yield child
        yield from _below(child)


ERRORS = all_errors()


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_page_that_fits(kind: type[EdgehoneError]) -> None:
    text = PAGES[kind.code].read_text()
    owner = next(base for base in reversed(kind.__mro__) if getattr(base, "code", None) == kind.code)
    assert text.startswith(f"# {kind.code} {owner.__name__}\n")
    assert f"Exit code of the command line: {kind.exit_code}.\n" in text
    assert "|---|" in text or "## What to do" in text


def test_there_is_no_page_without_an_error() -> None:
    assert set(PAGES) == {kind.code for kind in ERRORS}


def test_no_code_is_used_by_two_unrelated_classes() -> None:
    for code in {kind.code for kind in ERRORS}:
        users = [kind for kind in ERRORS if kind.code == code]
        first = min(users, key=lambda kind: len(kind.__mro__))
        assert [kind for kind in users if not issubclass(kind, first)] == [], code


def spoken() -> list[re.Pattern[str]]:
    """Every text of the source with something to say, as a pattern: what is filled in later matches anything."""
    found = [re.compile(re.escape(os.strerror(code))) for code in (errno.ENOSPC, errno.EACCES)]
    for folder in ("src", "agent/src"):
        for file in (DOCS.parent / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
                said = [text for text in texts if isinstance(text, str)]
                if sum(len(text.strip()) for text in said) >= 7:  # shorter ones match anything
                    found.append(re.compile("".join(re.escape(t) if isinstance(t, str) else ".+?" for t in texts)))
    return found


SPOKEN = spoken()


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_messages_are_ones_we_say(page: Path) -> None:
    messages = re.findall(r"^\| (?!message|---)(.+?) \| .+ \|$", page.read_text(), re.MULTILINE)
    unknown = [
        message
        for message in messages
        if not any(pattern.search(message) or message in pattern.pattern.replace("\\", "") for pattern in SPOKEN)
    ]
    assert unknown == []


def test_the_index_lists_every_code() -> None:
    rows = re.findall(
        r"^\| \[(EH\d{3})\]\(\1\.md\) \| `(\w+)` \| (\d+) \|$", (DOCS / "errors/README.md").read_text(), re.M
    )
    assert sorted(rows) == sorted({(kind.code, kind.__name__, str(kind.exit_code)) for kind in ERRORS})


def test_every_exit_code_is_explained() -> None:
    rows = re.findall(r"^\| (\d+) \| \S", (DOCS / "exit-codes.md").read_text(), re.M)
    usage = {0, 2}  # done, and argparse's own
    assert {int(row) for row in rows} == usage | {EXIT_BUDGET_UNMET} | {kind.exit_code for kind in ERRORS}
