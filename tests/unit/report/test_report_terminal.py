"""The table in the terminal fits its width and says what the page says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgehone.record import StudyRecord
from edgehone.report.headline import headline
from edgehone.report.terminal import text
from edgehone.testing.records import bare_record, example_record


def printed(study: StudyRecord, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(text(study, width))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_every_member_and_its_figures_fit(width: int) -> None:
    study = example_record()
    out = printed(study, width)
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    for member in study.members:
        (line,) = (line for line in out.splitlines() if line.startswith(member.name))
        assert f"{100 * member.metric['test'].value:.2f} %" in line
        assert "held" in line or "missed" in line
    assert headline(study) in out.replace("\n", " ").replace("  ", " ") or width < 70


def test_intervals_where_there_is_room() -> None:
    study = example_record()
    assert " to " in printed(study, 140)
    assert " to " not in printed(study, 80)


def test_an_estimate_is_called_one() -> None:
    out = printed(example_record(elsewhere=True), 100)
    assert out.count("estimated") >= 4


def test_nothing_known_prints_dashes() -> None:
    out = printed(bare_record(), 80)
    assert "int8" in out
    assert "None" not in out


def test_names_are_not_taken_for_markup() -> None:
    from dataclasses import replace

    study = example_record(1)
    out = printed(replace(study, members=(replace(study.members[0], name="[red]x[/red]"),)), 140)
    assert "[red]x[/red]" in out
