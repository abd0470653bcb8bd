"""The messages of the node protocol: out and in again, fields of the future, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone_agent.errors import InputError
from edgehone_agent.wire.uplink import (
    Desired,
    Enrol,
    Enrolled,
    Evidence,
    Failed,
    Heartbeat,
    HeartbeatAnswer,
    Labelled,
    Renew,
    Renewed,
    SampleLine,
    ShadowStatus,
    Taken,
    TaskStatus,
    Wants,
    read,
    write,
)

A, B = "a" * 64, "b" * 64
PEM = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
SHADOW = ShadowStatus(B, 4, 100, 3, 80.0, None, Labelled(10, 1, 2))
FULL = TaskStatus(
    digest=A, version=3, member="w8", ready=True, fault=None, latency_us=90.5, watch_level=1, risk_level=2,
    predictions=7,
    swaps=1, roll_backs=1, crashes=0, memory_bytes=10, failed=(Failed(B, 2, "slow"),), labelled=Labelled(5, 1),
    shadow=SHADOW,
)  # fmt: skip
MESSAGES: list[Any] = [
    Enrol("EH1-x", PEM, "camera", {"machine": "arm", "runtimes": ["litert"], "memory_bytes": 5}),
    Enrolled("0123456789abcdef", PEM, PEM, {"site": "north"}, "camera"),
    Renew(PEM),
    Renewed(PEM),
    Heartbeat("a" * 32, 1.5, "0.1.0", {"machine": "arm"}, {"digits": 3}, {"digits": FULL}, 99, ("disk-full",)),
    Heartbeat(None, 0.0, "0.1.0"),
    HeartbeatAnswer(
        "a" * 32, 1.5, 60.0, "quarantined",
        {"digits": Desired(3, ("w8", "w4"), 4, "r1", 9)}, {"digits": {"adapt": True}},
        {"digits": Wants(True, 5)},
    ),
    Evidence("digits", A, {"level": 1}),
    SampleLine("p1", "digits", A, 5.0, "uniform", 0.5, 0.25, "zero", (0.5, 1.0), "AAAA"),
    Taken(("a",), ("b",)),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_out_and_in_again(message: Any) -> None:
    assert read(type(message), write(message)) == message
    newer = json.loads(write(message)) | {"of the future": [1]}
    assert read(type(message), json.dumps(newer).encode()) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_required_field_is_missed_by_name(message: Any) -> None:
    whole = json.loads(write(message))
    for name in whole:
        less = {key: value for key, value in whole.items() if key != name}
        try:
            read(type(message), json.dumps(less).encode())
        except InputError as error:
            assert name in error.what


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_wrong_types_are_refused_and_nothing_else_happens(message: Any, data: st.DataObject) -> None:
    whole = json.loads(write(message))
    junk = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    junk = junk | st.lists(junk, max_size=3) | st.dictionaries(st.text(), junk, max_size=3)

    def change(value: Any) -> Any:
        if isinstance(value, dict) and value and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(value)))
            return {**value, name: change(value[name])}
        return data.draw(junk)

    try:
        found = read(type(message), json.dumps(change(whole)).encode())
    except InputError as error:
        assert error.what
    else:
        assert read(type(message), write(found)) == found


def test_texts_for_people_are_cleaned_not_refused() -> None:
    told = TaskStatus.from_json({"fault": "no\nsuch\tfile\x00" + "x" * 5000})
    assert told.fault is not None
    assert told.fault.startswith("no such file x")
    assert len(told.fault) <= 1000


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"tasks": {"../up": {}}}, "tasks"),
        ({"tasks": {"digits": {"digest": A}}}, "version"),
        ({"tasks": {"digits": {"latency_us": -1}}}, "latency_us"),
        (
            {"tasks": {"digits": {"shadow": {"digest": B, "version": 1, "rows": 2, "disagreements": 3}}}},
            "disagreements",
        ),
        ({"nonce": "short"}, "nonce"),
        ({"sent_s": -1}, "sent_s"),
        ({"schema": 2}, "schema"),
    ],
)
def test_what_a_heartbeat_may_not_say(change: dict[str, Any], names: str) -> None:
    body = json.loads(write(Heartbeat(None, 1.0, "0.1.0"))) | change
    with pytest.raises(InputError, match=names):
        read(Heartbeat, json.dumps(body).encode())


def test_secrets_do_not_show() -> None:
    assert "EH1-secret" not in repr(Enrol("EH1-secret", PEM))
