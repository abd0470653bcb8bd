"""A round's figures as a person decides by them, and what the enrolling page makes of what was typed."""

from __future__ import annotations

from typing import Any

import pytest

from edgehone.errors import InputError
from edgehone.loop.gate import judge
from edgehone.loop.policy import LoopPolicy
from edgehone.service.dashboard.judged import COLUMNS, judged
from edgehone.service.dashboard.views.enrol import core_address, parse_tags

POLICY = LoopPolicy("digits", "digits", "families/digits", ("int8",))


def figures(lost_pp: float = 0.2, **more: Any) -> dict[str, Any]:
    drop = {"value_pp": lost_pp, "low_pp": lost_pp - 0.5, "high_pp": lost_pp + 0.5, "n": 1540}
    gain = {"value_pp": -20.0, "low_pp": -26.0, "high_pp": -14.0, "n": 90}
    return {
        "member": "int8", "latency": 1.01, "latency_low": 0.98, "latency_high": 1.04, "size": 1.0,
        "slices": {
            "old": {"before": 0.973, "after": 0.971, "drop": drop, "flips": 0.031, "n": 1540},
            "new": {"before": 0.7, "after": 0.9, "drop": gain, "flips": 0.3, "n": 90},
        },
        **more,
    }  # fmt: skip


def told(*members: dict[str, Any]) -> dict[str, Any]:
    verdicts = [one.to_json() for one in judge(members, POLICY)]
    return {"figures": list(members), "verdicts": verdicts, "policy": POLICY.to_json()}


def test_every_figure_stands_beside_what_it_was_and_what_is_allowed() -> None:
    (one,) = judged(told(figures()))
    assert one.ok is True
    assert [cell.name for cell in one.cells] == list(COLUMNS)
    old, new, latency, size, flips = one.cells
    assert (old.now, old.more) == ("97.1 %", ("was 97.3 %", "−0.20 pp (−0.70 to +0.30)", "1 540 examples"))
    assert (new.now, new.more[1], new.limit) == ("90.0 %", "+20.00 pp (+14.00 to +26.00)", "must gain at least 0.5 pp")
    assert (latency.now, latency.more, latency.limit) == ("× 1.01", ("0.98 to 1.04",), "at most × 1.25")
    assert (size.now, flips.now, flips.limit) == ("× 1.00", "3.1 %", "at most 5.0 %")
    assert {cell.ok for cell in one.cells} == {True}


def test_what_fails_is_said_where_it_fails() -> None:
    (one,) = judged(told(figures(lost_pp=1.4)))
    assert one.ok is False
    assert [cell.name for cell in one.cells if cell.ok is False] == ["Old data"]


def test_before_the_gate_nothing_is_judged() -> None:
    (one,) = judged({"figures": [figures()], "verdicts": [], "policy": {}})
    assert one.ok is None
    assert {cell.ok for cell in one.cells} == {None}
    assert {cell.limit for cell in one.cells} == {""}


def test_checks_without_a_column_are_told_in_words() -> None:
    check = {"name": "readings", "ok": True, "words": "412 readings, 300 are needed"}
    (one,) = judged({"verdicts": [{"member": "int8", "ok": True, "checks": [check]}]})
    assert (one.cells, one.words, one.ok) == ((), ("412 readings, 300 are needed",), True)


def test_errors_of_numbers_are_no_percentages() -> None:
    found = figures()
    found["slices"]["old"] |= {"before": 1.25, "after": 1.5, "flips": None}
    old, *_, flips = judged({"figures": [found]})[0].cells
    assert (old.now, old.more[0], flips.now) == ("1.5", "was 1.25", "–")


@pytest.mark.parametrize(
    "content",
    [
        {}, {"figures": None, "verdicts": "x"}, {"figures": [{"member": "a", "slices": 3}], "policy": []},
        {"figures": [{"member": "a", "slices": {"old": {"drop": {"value_pp": "x"}, "after": float("nan")}}}]},
        {"verdicts": [{"member": "a", "checks": [3, {"name": "flips"}]}, 7]},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_dash(content: dict[str, Any]) -> None:
    assert all(cell.now == "–" for one in judged(content) for cell in one.cells)


def test_tags_are_read_as_people_write_them() -> None:
    assert parse_tags(" site=north, camera = a;\nfloor=2 ,") == {"site": "north", "camera": "a", "floor": "2"}
    assert parse_tags("") == {}
    for wrong in ("site", "=north", "site=", "site=a, site=b"):
        with pytest.raises(InputError, match="is no tag"):
            parse_tags(wrong)


@pytest.mark.parametrize(
    ("host", "names", "address"),
    [
        ("core.example.org:7443", ["other"], "https://core.example.org:7443"),
        ("localhost:7443", ["localhost", "127.0.0.1", "core.example.org"], "https://core.example.org:7443"),
        ("127.0.0.1:7443", ["localhost", "127.0.0.1", "::1"], "https://127.0.0.1:7443"),
        ("[::1]:7443", ["::1"], "https://[::1]:7443"),
        ("core.example.org", [], "https://core.example.org:443"),
        ("core:port", ["core.example.org"], "https://core.example.org:443"),
        ("", ["core.example.org"], "https://core.example.org:443"),
    ],
)
def test_a_node_gets_an_address_that_it_can_reach(host: str, names: list[str], address: str) -> None:
    assert core_address(host, names) == address
