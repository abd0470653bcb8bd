"""Two slots: what passes takes over, what fails is dropped and remembered, and what served goes on whatever happens."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehone.testing.bundles import Made, write_bundle
from edgehone_agent import bundle as bundles
from edgehone_agent.errors import BundleError, InputError, ModelFileError, StateError, UnfitError
from edgehone_agent.slot_rules import MAX_REMEMBERED, MAX_WHY, Event, Placed, SlotState, Trial, decide
from edgehone_agent.slots import BUNDLE, FILES, Slots

Make = Callable[..., Made]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes a bundle; the same arguments give the same file."""
    folder = tmp_path_factory.mktemp("bundles")

    def write(version: int, **more: object) -> Made:
        name = "-".join([str(version), *(f"{key}-{len(str(value))}" for key, value in more.items())])
        return write_bundle(folder / f"{name}.bundle", version=version, **more)  # type: ignore[arg-type]

    return write


def new_slots(folder: Path) -> Slots:
    """The slots of a process that has just started."""
    slots = Slots(folder / "tasks" / "gestures", "gestures", clock=lambda: 5.0)
    slots.start()
    return slots


def installed(folder: Path, *bundles: Made) -> Slots:
    """Slots with these bundles, each settled."""
    slots = new_slots(folder)
    for bundle in bundles:
        slots.install(bundle.path).close()
        slots.settle()
    return slots


def answers(slots: Slots, made: Made) -> bool:
    """Whether a process that starts now gives the answer of this bundle."""
    loaded = slots.load()
    if loaded is None:
        return False
    try:
        return bool(np.array_equal(loaded.models[0].predict(made.x), made.y))
    finally:
        loaded.close()


# --- rules


def test_the_pointer_survives_json_and_names_slot_digest_version_and_previous() -> None:
    state = decide(SlotState(), Event("arrived", "d1", 1), 1.0).state
    state = decide(state, Event("passed", "d1", 1, "m"), 2.0).state
    state = decide(decide(state, Event("arrived", "d2", 2), 3.0).state, Event("passed", "d2", 2, "m"), 4.0).state
    data = json.loads(json.dumps(state.to_json()))
    assert (data["slot"], data["digest"], data["version"], data["previous"]["slot"]) == ("b", "d2", 2, "a")
    assert SlotState.from_json(data | {"newer": 1}) == state


@pytest.mark.parametrize(
    "damaged",
    [{}, [], {"slot": "c", "digest": "d", "version": 1}, {"slot": "a"}, {"slot": "a", "digest": 3, "version": 1},
     {"slot": None, "trial": {"digest": "d", "version": 1, "deaths": "0"}}, {"slot": None, "failed": 3}],
)  # fmt: skip
def test_a_damaged_pointer_is_refused(damaged: object) -> None:
    with pytest.raises(StateError):
        SlotState.from_json(damaged)  # type: ignore[arg-type]


def test_two_deaths_after_a_swap_go_back_and_a_stop_is_no_death() -> None:
    old, new = Placed("a", "d1", 1), Placed("b", "d2", 2)
    state = SlotState(old, None, None)
    state = decide(decide(state, Event("arrived", "d2", 2), 0).state, Event("passed", "d2", 2), 0).state
    stopped = decide(state, Event("stopped"), 0).state
    for _ in range(5):
        decision = decide(stopped, Event("started"), 0)
        assert decision.action == "serve"
        stopped = decide(decision.state, Event("stopped"), 0).state
    once = decide(state, Event("started"), 0)
    assert once.action == "serve" and once.state.current == replace(new, since_s=0)
    twice = decide(once.state, Event("started"), 9.0)
    assert twice.action == "roll back" and twice.state.current == old and twice.state.trial is None
    failure = twice.state.failure("d2", 2)
    assert failure is not None and "died 2 times" in failure.why and failure.at_s == 9.0
    assert decide(twice.state, Event("arrived", "d2", 2), 0).action == "refuse"
    assert decide(twice.state, Event("arrived", "d3", 3), 0).action == "try"


def test_a_stop_begins_the_count_again_and_two_deaths_in_a_row_end_it() -> None:
    state = SlotState(Placed("b", "d2", 2), Placed("a", "d1", 1), Trial("d2", 2))
    for _ in range(4):
        state = decide(state, Event("started"), 0).state  # a death, or the first start
        state = decide(state, Event("stopped"), 0).state
        decision = decide(state, Event("started"), 0)
        assert decision.action == "serve" and decision.state.trial == Trial("d2", 2)
        state = decision.state
    state = decide(state, Event("started"), 0).state
    assert decide(state, Event("started"), 0).action == "roll back"


def test_a_machine_that_goes_down_is_no_death_of_the_process_until_it_is_five_in_a_row() -> None:
    state = SlotState(Placed("b", "d2", 2), Placed("a", "d1", 1), Trial("d2", 2, boot="boot 0"))
    once = decide(state, Event("started", boot="boot 0"), 0).state
    assert once.trial == Trial("d2", 2, deaths=1, boot="boot 0")
    for number in range(1, 5):
        decision = decide(state, Event("started", boot=f"boot {number}"), 0)
        assert decision.action == "serve"
        state = decision.state
    assert state.trial == Trial("d2", 2, resets=4, boot="boot 4")
    decision = decide(state, Event("started", boot="boot 5"), 0)
    assert decision.action == "roll back" and "machine went down 5 times" in decision.why
    twice = decide(decide(state, Event("started", boot="boot 4"), 0).state, Event("started", boot="boot 4"), 0)
    assert twice.action == "roll back" and "process died 2 times" in twice.why


def test_power_cuts_are_not_blamed_on_a_candidate_either() -> None:
    state = SlotState(Placed("a", "d1", 1))
    for number in range(5):
        state = decide(state, Event("arrived", "d2", 2, boot=f"boot {number}"), 0).state
        decision = decide(state, Event("started", boot=f"boot {number + 1}"), 0)
        assert (decision.action == "drop") == (number == 4)
        state = decision.state
    assert state.failure("d2", 2) is not None and state.current == Placed("a", "d1", 1)


def test_the_only_bundle_is_given_up_later_for_nothing_would_serve() -> None:
    state = SlotState(Placed("a", "d1", 1), trial=Trial("d1", 1))
    for _ in range(4):
        decision = decide(state, Event("started"), 0)
        assert decision.action == "serve"
        state = decision.state
    assert decide(state, Event("started"), 0).state.current is None


def test_what_was_disowned_serves_until_anything_takes_over_and_never_comes_back() -> None:
    state = SlotState(Placed("a", "d9", 9), Placed("b", "d8", 8))
    assert decide(state, Event("arrived", "d2", 2), 0).action == "refuse"
    state = decide(state, Event("disowned", version=3), 0).state
    assert state.current is not None and state.current.disowned and state.previous is None
    state = decide(state, Event("arrived", "d2", 2), 0).state
    state = decide(state, Event("passed", "d2", 2), 0).state
    assert state.current is not None and state.current.version == 2 and state.previous is None
    kept = SlotState(Placed("a", "d3", 3), Placed("b", "d2", 2))
    assert decide(kept, Event("disowned", version=3), 0).state == kept


def test_a_reason_is_kept_short() -> None:
    state = SlotState(Placed("a", "d1", 1), Placed("b", "d0", 0))
    failed = decide(state, Event("undone", why="x" * 100_000), 0).state.failed
    assert len(failed[0].why) == MAX_WHY


def test_a_settled_bundle_is_not_blamed_for_deaths() -> None:
    state = decide(SlotState(), Event("arrived", "d1", 1), 0).state
    state = decide(decide(state, Event("passed", "d1", 1), 0).state, Event("settled"), 0).state
    for _ in range(9):
        decision = decide(state, Event("started"), 0)
        assert decision.action == "serve" and decision.state == state


def test_a_candidate_that_kills_the_process_while_it_is_tried_is_dropped() -> None:
    serving = SlotState(Placed("a", "d1", 1), Placed("b", "d0", 0))
    state = decide(serving, Event("arrived", "d2", 2), 0).state
    state = decide(state, Event("started"), 0).state
    state = decide(state, Event("arrived", "d2", 2), 0).state  # tried again after the restart: the death still counts
    decision = decide(state, Event("started"), 0)
    assert decision.action == "drop" and decision.state.failure("d2", 2)
    assert (decision.state.current, decision.state.previous) == (serving.current, serving.previous)


def test_a_failure_at_start_does_not_touch_the_trial_of_a_candidate() -> None:
    state = decide(SlotState(Placed("a", "d1", 1), Placed("b", "d0", 0)), Event("arrived", "d2", 2), 0).state
    after = decide(state, Event("failed", "d1", 1, why="wrong"), 0).state
    assert after.current == Placed("b", "d0", 0) and after.attempt == state.attempt and after.failure("d1", 1)


def test_one_death_in_an_attempt_is_not_added_to_by_others() -> None:
    serving = SlotState(Placed("a", "d1", 1))
    state = decide(serving, Event("arrived", "d2", 2), 0).state
    for _ in range(5):  # the registry is away meanwhile, so it is not tried again
        decision = decide(state, Event("started"), 0)
        assert decision.action == "serve" and decision.state.attempt is not None
        state = decision.state
    assert decide(state, Event("arrived", "d2", 2), 0).action == "try"
    assert decide(state, Event("arrived", "d3", 3), 0).state.attempt == Trial("d3", 3)


def test_a_death_while_a_candidate_is_tried_is_not_blamed_on_what_serves() -> None:
    state = decide(SlotState(), Event("arrived", "d1", 1), 0).state
    state = decide(state, Event("passed", "d1", 1), 0).state
    state = decide(state, Event("arrived", "d2", 2), 0).state
    state = decide(decide(state, Event("started"), 0).state, Event("arrived", "d2", 2), 0).state
    decision = decide(state, Event("started"), 0)
    assert decision.action == "drop" and decision.state.current is not None and decision.state.failure("d2", 2)
    assert decision.state.trial == Trial("d1", 1)


def test_what_was_lost_may_come_again_and_what_failed_may_not() -> None:
    state = SlotState(Placed("a", "d1", 1))
    lost = decide(state, Event("lost", "d1", 1), 0).state
    assert lost.current is None and decide(lost, Event("arrived", "d1", 1), 0).action == "try"
    failed = decide(state, Event("failed", "d1", 1), 0).state
    assert failed.current is None and decide(failed, Event("arrived", "d1", 1), 0).action == "refuse"


EVENTS = st.builds(
    Event,
    st.sampled_from(
        [
            "started",
            "arrived",
            "cleared",
            "passed",
            "failed",
            "interrupted",
            "settled",
            "stopped",
            "lost",
            "undone",
            "disowned",
        ]
    ),
    st.sampled_from(["d1", "d2", "d3"]),
    st.integers(1, 3),
)


@given(st.lists(EVENTS, max_size=60))
def test_no_order_of_events_loses_what_serves_without_a_reason(events: list[Event]) -> None:
    state = SlotState()
    for event in events:
        if event.kind in ("passed", "cleared") and (state.attempt is None or state.attempt.digest != event.digest):
            continue  # only what is on trial passes
        decision = decide(state, event, 1.0)
        now = decision.state
        if event.kind == "disowned":
            assert (now.current is None) == (state.current is None)
        elif now.current != state.current:
            assert decision.action in ("swap", "roll back")
        if decision.action == "roll back":
            assert now.current == state.previous
        if decision.action == "swap":
            gone = state.current is not None and state.current.disowned
            assert now.previous == (None if gone else state.current)
            assert now.current is not None and (state.current is None or now.current.slot != state.current.slot)
        if now.current is not None and now.previous is not None:
            assert now.current.slot != now.previous.slot
        assert SlotState.from_json(json.loads(json.dumps(now.to_json()))) == now
        assert len(now.failed) <= MAX_REMEMBERED
        state = now


# --- on disk


def test_a_bundle_is_installed_and_serves_after_a_restart(tmp_path: Path, make: Make) -> None:
    one, two = make(1), make(2)
    slots = new_slots(tmp_path)
    assert slots.load() is None
    with_one = slots.install(one.path)
    np.testing.assert_array_equal(with_one.models[0].predict(one.x), one.y)
    assert with_one.latency_us is not None and with_one.digest == one.digest
    with_one.close()
    slots.install(two.path).close()
    again = new_slots(tmp_path)
    assert answers(again, two)
    current, previous = again.state.current, again.state.previous
    assert current is not None and (current.slot, current.version, current.since_s) == ("b", 2, 5.0)
    assert previous is not None and (previous.slot, previous.version) == ("a", 1)
    assert sorted(path.name for path in slots.folder.iterdir()) == ["a", "b", "current.json"]
    assert one.path.exists() and again.bundle_file() == slots.folder / "b" / BUNDLE


def test_sessions_are_as_many_as_asked(tmp_path: Path, make: Make) -> None:
    one = make(1)
    slots = Slots(tmp_path / "tasks" / "gestures", "gestures", sessions=3)
    loaded = slots.install(one.path)
    assert len({id(model.session) for model in loaded.models}) == 3
    loaded.close()
    with pytest.raises(InputError, match="threads"):
        Slots(tmp_path, "gestures", threads=10_000)


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"wrong_probe": True}, BundleError, "answers its probe wrongly"),
        ({"latency_us": 0.001}, UnfitError, "the bound is 0 µs"),
        ({"model": b"no model at all"}, ModelFileError, "not a .tflite file"),
        ({"task": "other"}, BundleError, "a bundle of task 'other'"),
    ],
)
def test_a_bad_bundle_changes_nothing_but_what_is_remembered(
    more: dict[str, object], kind: type[Exception], said: str, tmp_path: Path, make: Make
) -> None:
    zero, one, bad = make(1), make(2), make(3, **more)
    slots = installed(tmp_path, zero, one)
    with pytest.raises(kind, match=said):
        slots.install(bad.path)
    assert answers(slots, one) and answers(new_slots(tmp_path), one)
    assert slots.state.previous is not None and slots.state.previous.digest == zero.digest
    assert not (slots.folder / "incoming").exists()
    if "task" in more:
        return
    assert slots.fault is not None and "version 3" in slots.fault
    with pytest.raises(UnfitError, match="failed here before"):
        new_slots(tmp_path).install(bad.path)
    good = make(4)
    slots.install(good.path).close()
    assert answers(slots, good)


def test_an_older_version_and_the_same_bundle_are_refused(tmp_path: Path, make: Make) -> None:
    slots = installed(tmp_path, make(2))
    for version, said in ((1, "older than 2"), (2, "serves already")):
        with pytest.raises(UnfitError, match=said):
            slots.install(make(version).path)


def test_going_back_by_hand(tmp_path: Path, make: Make) -> None:
    one, two = make(1), make(2)
    slots = installed(tmp_path, one, two)
    slots.roll_back().close()
    assert answers(slots, one) and answers(new_slots(tmp_path), one)
    with pytest.raises(UnfitError, match="failed here before: rolled back by hand"):
        slots.install(two.path)
    with pytest.raises(UnfitError, match="no last good bundle"):
        slots.roll_back()
    assert answers(slots, one)


def test_two_deaths_after_a_swap_go_back_on_disk(tmp_path: Path, make: Make) -> None:
    one, two = make(1), make(2)
    installed(tmp_path, one).install(two.path).close()
    assert answers(new_slots(tmp_path), two)
    third = new_slots(tmp_path)
    assert answers(third, one)
    assert third.state.failure(two.digest, 2) is not None
    assert answers(new_slots(tmp_path), one)


def test_damaged_files_are_mended_from_the_bundle(tmp_path: Path, make: Make) -> None:
    one = make(1)
    slots = installed(tmp_path, one)
    model = slots.folder / "a" / FILES / "models/litert/model.tflite"
    content = model.read_bytes()
    for damage in (
        lambda: model.write_bytes(content[:-1] + b"\xff"),
        model.unlink,
        lambda: shutil.rmtree(model.parents[2]),
    ):
        damage()
        assert answers(new_slots(tmp_path), one)
        assert model.read_bytes() == content


def test_a_damaged_bundle_gives_way_to_the_last_good_one_and_may_come_again(tmp_path: Path, make: Make) -> None:
    one, two = make(1), make(2)
    slots = installed(tmp_path, one, two)
    (slots.folder / "b" / BUNDLE).write_bytes(b"PK nothing")
    again = new_slots(tmp_path)
    assert answers(again, one) and again.fault is not None and "version 2" in again.fault
    again.install(two.path).close()
    assert answers(new_slots(tmp_path), two)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"slot": "a"}', b"\xff\x00"])
def test_a_damaged_pointer_is_made_again_from_the_slots(content: bytes, tmp_path: Path, make: Make) -> None:
    one, two = make(1), make(2)
    slots = installed(tmp_path, one, two)
    (slots.folder / "current.json").write_bytes(content)
    again = new_slots(tmp_path)
    assert answers(again, two) and again.fault is not None
    again.roll_back().close()
    assert answers(again, one)


def test_a_disk_that_takes_nothing_stops_no_service_and_blames_no_bundle(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make(1), make(2)
    slots = installed(tmp_path, one)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        slots.install(two.path)
    assert answers(slots, one) and answers(new_slots(tmp_path), one)
    monkeypatch.undo()
    assert not (slots.folder / "incoming").exists()
    slots.install(two.path).close()
    assert answers(new_slots(tmp_path), two)


def test_any_write_that_fails_leaves_old_or_new(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the n-th fsync, for every n that an install makes."""
    one, two = make(1), make(2)
    real = os.fsync
    for nth in range(1, 100):
        folder = tmp_path / str(nth)
        slots = installed(folder, one)
        left = [nth]

        def failing(descriptor: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(5, os.strerror(5))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        try:
            slots.install(two.path).close()
            done = True
        except StateError:
            done = False
        monkeypatch.undo()
        again = new_slots(folder)
        assert answers(again, two if done else one) or answers(again, two)
        if done:
            assert nth > 5, "an install syncs more than a few times"
            return
    pytest.fail("an install makes no end of fsync calls")


def test_a_reader_neither_writes_nor_installs(tmp_path: Path, make: Make) -> None:
    one, two = make(1), make(2)
    slots = installed(tmp_path, one)
    before = (slots.folder / "current.json").read_bytes()
    reader = Slots(slots.folder, "gestures", is_writer=False)
    reader.start()
    assert answers(reader, one)
    for change in (lambda: reader.install(two.path), reader.roll_back):
        with pytest.raises(StateError, match="another process"):
            change()
    assert (slots.folder / "current.json").read_bytes() == before


def test_two_power_cuts_and_a_restart_of_the_machine_blame_nobody(tmp_path: Path, make: Make) -> None:
    one, two = make(1), make(2)
    installed(tmp_path, one)
    folder = tmp_path / "tasks" / "gestures"
    Slots(folder, "gestures", boot="boot 0").install(two.path).close()
    for number in (1, 2, 3):
        slots = Slots(folder, "gestures", boot=f"boot {number}")
        slots.start()
        assert answers(slots, two)
    assert json.loads((folder / "current.json").read_text())["trial"]["resets"] == 3


def test_a_pointer_that_cannot_be_read_is_not_written_over(tmp_path: Path, make: Make) -> None:
    """A link that leads to itself stands for a disk that gives an error."""
    one, two, three = make(1), make(2), make(3)
    slots = installed(tmp_path, one, two)
    pointer, away = slots.folder / "current.json", slots.folder / "away.json"
    pointer.rename(away)
    pointer.symlink_to(pointer)
    again = new_slots(tmp_path)
    for attempt in (again.load, lambda: again.install(three.path), again.roll_back):
        with pytest.raises(StateError, match="symbolic links"):
            attempt()
    again.stop()
    assert pointer.is_symlink()
    away.replace(pointer)
    assert answers(again, two) and again.state.previous is not None
    again.install(three.path).close()
    assert answers(new_slots(tmp_path), three)


def test_who_comes_to_write_looks_at_what_others_wrote_before(tmp_path: Path, make: Make) -> None:
    one, two, three = make(1), make(2), make(3)
    writer = installed(tmp_path, one)
    reader = Slots(writer.folder, "gestures", is_writer=False)
    assert answers(reader, one)
    writer.install(two.path).close()
    reader.is_writer = True
    assert reader.state == writer.state
    reader.install(three.path).close()
    assert reader.state.previous is not None and reader.state.previous.version == 2
    reader.roll_back().close()
    assert answers(new_slots(tmp_path), two)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM])
def test_a_disk_without_second_names_for_files_takes_a_bundle(
    code: int, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(1)
    file = tmp_path / "downloads" / "x.bundle"
    file.parent.mkdir()
    shutil.copyfile(one.path, file)

    def no_link(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_link)
    slots = new_slots(tmp_path)
    slots.install(file).close()
    assert answers(new_slots(tmp_path), one)


def test_a_disk_that_does_not_give_the_bytes_blames_no_bundle(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make(1), make(2)
    slots = installed(tmp_path, one)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with zipfile.ZipFile(two.path) as archive:
        head = archive.read("manifest.json")
    monkeypatch.setattr(zipfile.ZipExtFile, "read", broken)
    monkeypatch.setattr(bundles, "_head", lambda archive, path: head)
    with pytest.raises(StateError, match="Input/output error"):
        slots.install(two.path)
    monkeypatch.undo()
    assert slots.state.failed == () and answers(slots, one)
    slots.install(two.path).close()
    assert answers(new_slots(tmp_path), two)
