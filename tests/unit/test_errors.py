"""The error tree: what a message looks like, which exit code a branch has, how the command line says it."""

from __future__ import annotations

import json

import pytest

import edgehone.errors as tree
from edgehone.cli import main as cli
from edgehone.errors import BudgetError, EdgehoneError, HostError, InputError, Interrupted, NetworkError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EdgehoneError("it broke"), "it broke"),
        (EdgehoneError("it broke", where="a.csv"), "a.csv: it broke"),
        (EdgehoneError("it broke", do="mend it"), "it broke\n  → mend it"),
        (EdgehoneError("it broke", where="a.csv", do="mend it"), "a.csv: it broke\n  → mend it"),
    ],
)
def test_the_message_says_where_what_and_what_to_do(error: EdgehoneError, text: str) -> None:
    assert str(error) == text


def test_branches_decide_the_exit_code() -> None:
    codes = {InputError: 4, NetworkError: 5, HostError: 6, Interrupted: 130}
    kinds = [getattr(tree, name) for name in tree.__all__]
    for kind in kinds:
        branch = next((base for base in codes if issubclass(kind, base)), None)
        assert kind.exit_code == (codes[branch] if branch else 1), kind


def test_the_tree_is_drawn_as_it_is() -> None:
    drawing = tree.__doc__ or ""
    for name in tree.__all__:
        kind = getattr(tree, name)
        line = next(line for line in drawing.splitlines() if name in line.replace("─", " ").split())
        assert kind.code in line or f"exit {kind.exit_code}" in line


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line_shows_an_error_without_a_traceback(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["optimize", "digits", "--max-size", "0kB"] + (["--json"] if as_json else [])
    assert cli.main(words) == BudgetError.exit_code
    shown = capsys.readouterr()
    assert shown.err.startswith("edgehone: EH140: size_bytes is 0") and "Traceback" not in shown.err
    if as_json:
        error = json.loads(shown.out)["error"]
        assert set(error) == {"code", "what", "where", "do"} and error["code"] == "EH140"
    else:
        assert shown.out == ""
