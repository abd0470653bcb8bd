"""Records: through JSON text and back they are the same values; what a later version adds does no harm."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from edgehone.record import (
    SCHEMA,
    CurvePoint,
    DropRecord,
    FileRecord,
    MemberRecord,
    StudyRecord,
    from_json,
    to_json,
)
from edgehone.testing.records import bare_record, example_record


@pytest.mark.parametrize(
    "record",
    [example_record(), example_record(12, 20, elsewhere=True), example_record(kind="regression"), bare_record()],
    ids=["full", "many", "regression", "bare"],
)
def test_a_study_comes_back_equal(record: StudyRecord) -> None:
    back = from_json(StudyRecord, json.loads(json.dumps(to_json(record))))
    assert json.dumps(to_json(back)) == json.dumps(to_json(record))
    assert back.members == record.members


def test_nested_records_are_rebuilt_as_their_classes() -> None:
    member = example_record().members[0]
    back = from_json(MemberRecord, json.loads(json.dumps(to_json(member))))
    assert isinstance(back.files, tuple) and isinstance(back.files[0], FileRecord)
    assert isinstance(back.drop["test"], DropRecord)
    assert back.metric["test"] == member.metric["test"] and type(back.metric["test"]) is type(member.metric["test"])
    assert back.layers[0].magnitudes == member.layers[0].magnitudes


def test_fields_of_a_later_version_are_ignored() -> None:
    point = CurvePoint(epoch=1.0, loss=0.5, learning_rate=0.1)
    assert from_json(CurvePoint, {**to_json(point), "temperature": 4}) == point


def test_optional_fields_may_be_missing_or_null() -> None:
    assert from_json(CurvePoint, {"epoch": 1.0, "loss": 0.5, "learning_rate": 0.1, "metric": None}).metric is None
    with pytest.raises(TypeError, match="loss"):
        from_json(CurvePoint, {"epoch": 1.0, "learning_rate": 0.1})


def test_a_new_study_carries_the_schema() -> None:
    assert to_json(bare_record())["schema"] == SCHEMA
    assert fields(StudyRecord)[-1].name == "schema"
