"""The headline names the right member and never boasts."""

from __future__ import annotations

from dataclasses import replace

from edgehone.record import DropRecord, MemberRecord, StudyRecord
from edgehone.report.figures import unbroken
from edgehone.report.headline import headline, shown_member, tiles
from edgehone.testing.records import bare_record, example_record


def with_members(study: StudyRecord, *members: MemberRecord, **changes: object) -> StudyRecord:
    return replace(study, members=members, **changes)  # type: ignore[arg-type]


def with_drop(member: MemberRecord, value_pp: float) -> MemberRecord:
    return replace(member, drop={"test": DropRecord(value_pp, value_pp - 0.3, value_pp + 0.3, "m", 100)})


def test_it_says_what_was_gained_and_lost() -> None:
    study = example_record()
    member = study.members[-1]
    speed = member.latency[0].speedup
    assert speed is not None
    size = study.original.files[0].size_bytes / member.files[0].size_bytes
    assert headline(study) == f"{speed.value:.0f}× faster and {size:.0f}× smaller for {unbroken('0.58 pp')} of accuracy"


def test_the_fastest_of_those_that_hold_every_limit_is_shown() -> None:
    study = example_record()
    first, second, third = study.members
    third = replace(third, holds={**third.holds, "drop_pp": False})
    shown = shown_member(with_members(study, first, second, third))
    assert shown is not None
    assert shown.name == second.name  # the third is faster


def test_without_a_limit_on_the_drop_a_large_one_is_not_shown() -> None:
    study = replace(example_record(), budget={"drop_pp": None})
    members = [replace(m, holds={}) for m in study.members]
    members[-1] = with_drop(members[-1], 12.0)
    shown = shown_member(with_members(study, *members))
    assert shown is not None
    assert shown.name == members[-2].name


def test_an_unmet_budget_is_said_first() -> None:
    assert headline(example_record(met=False)).startswith("No member holds every limit; the nearest is 13× faster")


def test_an_estimate_is_called_one() -> None:
    assert "an estimated" in headline(example_record(elsewhere=True)).lower()
    assert "estimated" not in headline(example_record()).lower()


def test_a_gain_is_no_loss() -> None:
    study = example_record()
    member = with_drop(study.members[-1], -0.4)
    assert headline(with_members(study, member)).endswith("at no loss")


def test_differences_in_the_noise_and_losses_are_not_gains() -> None:
    study = example_record()
    slower = replace(study.members[-1], latency=study.original.latency, files=study.original.files)
    text = headline(with_members(study, slower))
    assert "faster" not in text
    assert text.startswith("As fast and as large")


def test_a_slower_member_is_called_slower() -> None:
    study = example_record()
    latency = study.members[0].latency[0]
    assert latency.speedup is not None
    slow = replace(latency, speedup=replace(latency.speedup, value=0.5))
    assert headline(with_members(study, replace(study.members[0], latency=(slow,)))).startswith("2.0× slower")


def test_no_member_and_no_figures() -> None:
    assert headline(replace(example_record(), members=())) == "No member came out of this study"
    assert headline(bare_record()) == "int8"
    assert tiles(bare_record()) == ()


def test_tiles_show_limits_and_whether_they_are_held() -> None:
    study = example_record()
    found = {tile.title: tile for tile in tiles(study)}
    assert [found[name].limit for name in ("Speed", "Size", "Drop", "Memory")] == ["≤ 60 µs", "≤ 140 kB", "≤ 1 pp", ""]
    assert [found[name].held for name in ("Speed", "Size", "Drop", "Memory")] == [True, True, True, None]
    assert found["Memory"].figure.estimated
