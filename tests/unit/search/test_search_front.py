"""The front and the verdict, from values."""

from __future__ import annotations

from dataclasses import replace

from edgehone.record import MemberRecord, StudyRecord
from edgehone.search.front import front, verdict
from edgehone.testing.records import example_record


def family() -> tuple[MemberRecord, tuple[MemberRecord, ...]]:
    record = example_record(members=3)
    return record.original, record.members


def test_smaller_faster_and_less_accurate_members_all_stand_on_the_front() -> None:
    _, members = family()
    assert front(members, "accuracy") == tuple(member.name for member in members)


def test_a_member_that_another_beats_everywhere_is_not_on_the_front() -> None:
    _, (first, second, third) = family()
    worse = replace(third.metric["test"], value=0.1)
    loser = replace(first, name="loser", metric={"test": worse})
    assert front((first, second, third, loser), "accuracy") == (first.name, second.name, third.name)


def test_for_an_error_smaller_is_better() -> None:
    _, (first, second, _) = family()
    value = first.metric["test"].value
    good = replace(first, name="good", metric={"test": replace(first.metric["test"], value=value / 2)})
    assert front((first, good), "rmse") == ("good",)
    assert front((first, good), "accuracy") == (first.name,)
    assert second.name in front((first, second), "rmse")


def study(members: tuple[MemberRecord, ...]) -> StudyRecord:
    return replace(example_record(members=3), members=members)


def test_the_verdict_names_the_fastest_member_that_holds_everything() -> None:
    _, members = family()
    held = tuple(replace(m, holds={"drop_pp": m is not members[2]}) for m in members)
    text = verdict(study(held))
    assert text.startswith(f"{members[1].name} is ")
    assert "times faster" in text and "at worst" in text


def test_an_unmet_budget_is_said_with_the_nearest_member() -> None:
    _, members = family()
    missed = tuple(replace(m, holds={"drop_pp": False, "size_bytes": m is members[1]}) for m in members)
    text = verdict(study(missed))
    assert text.startswith("No member holds every limit. The nearest one misses drop")
    assert members[1].name in text


def test_no_members_is_an_answer_too() -> None:
    assert "No version" in verdict(study(()))
