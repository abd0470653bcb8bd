"""What counts as a feedback event, and that nothing else gets in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehone_agent.errors import InputError
from edgehone_agent.feedback import KINDS, MAX_EVENT_BYTES, read_event

GOOD = {"id": "e1", "prediction_id": "p1", "kind": "correct", "label": "cat"}


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "confirm", "label": None},
        {"kind": "correct", "label": 3},
        {"kind": "correct", "label": None, "value": 1.5},
        {"kind": "correct", "label": None, "value": [1, 2.5]},
        {"kind": "new_class", "label": "zebra"},
        {"kind": "ignore"},
        {"kind": "delete"},
        {"annotator": "ann", "trust": 1, "time": 1e9},
        {"trust": 0.0, "time": 0},
    ],
)
def test_good_events_are_taken(more: dict[str, Any]) -> None:
    event = read_event({**GOOD, **more})
    assert (event.id, event.prediction_id, event.kind) == ("e1", "p1", more.get("kind", "correct"))
    assert json.loads(event.content) == {**GOOD, **more}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"id": "x" * 201}, "id"),
        ({"id": "a\0b"}, "id"),
        ({"prediction_id": None}, "prediction_id"),
        ({"kind": "praise"}, "kind"),
        ({"kind": ["correct"]}, "kind"),
        ({"kind": None}, "kind"),
        ({"label": None}, "label"),
        ({"label": True}, "label"),
        ({"label": 1.5}, "label"),
        ({"label": ""}, "label"),
        ({"label": 10**400}, "label"),
        ({"kind": "new_class", "label": 4}, "label"),
        ({"value": "much"}, "value"),
        ({"value": [1, float("nan")]}, "value"),
        ({"value": [1.0] * 5000}, "value"),
        ({"trust": 1.1}, "trust"),
        ({"trust": -0.1}, "trust"),
        ({"trust": "high"}, "trust"),
        ({"trust": True}, "trust"),
        ({"time": float("inf")}, "time"),
        ({"time": "yesterday"}, "time"),
        ({"annotator": 7}, "annotator"),
        ({"note": float("nan")}, ""),
        ({"note": {1, 2}}, ""),
        ({"note": "\ud800"}, ""),
        ({5: "five"}, ""),
        ({"note": "x" * MAX_EVENT_BYTES}, ""),
    ],
)
def test_bad_events_are_refused_and_the_field_is_named(change: dict[Any, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        read_event({**GOOD, **change})
    assert caught.value.where == where
    assert caught.value.do


def test_something_nested_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    round_: list[Any] = []
    round_.append(round_)
    for note in (deep, round_):
        with pytest.raises(InputError):
            read_event({**GOOD, "note": note})
    while deep:  # taken apart by hand: the interpreter itself goes too deep when it frees such a list
        deep = deep[0]


@pytest.mark.parametrize("wrong", [None, 5, "text", [GOOD]])
def test_what_is_no_object_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="is an object"):
        read_event(wrong)


def test_the_order_of_fields_does_not_matter() -> None:
    assert read_event(GOOD) == read_event(dict(reversed(GOOD.items())))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "value", "trust", "time", "annotator", "note"]), JSON | st.sampled_from(KINDS)
    )
)
def test_any_object_is_taken_as_it_is_or_refused(found: dict[str, Any]) -> None:
    try:
        event = read_event(found)
    except InputError:
        return
    assert json.loads(event.content) == found


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text().filter(lambda key: key not in {*GOOD, "value", "trust", "time", "annotator"}), JSON))
def test_unknown_fields_come_through(more: dict[str, Any]) -> None:
    try:
        event = read_event({**GOOD, **more})
    except InputError:  # NaN, half a surrogate pair, or too large
        return
    assert json.loads(event.content) == {**GOOD, **more}
