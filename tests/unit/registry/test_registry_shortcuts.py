"""Deltas that a publish makes by itself: between which bundles, within which limits, and what nodes get of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.bundle.delta import WORTH, make_delta
from edgehone.cli.main import main
from edgehone.errors import HostError, InputError
from edgehone.registry import shortcuts
from edgehone.registry.names import blob_path
from edgehone.registry.publish import complete, prepare, publish, read_prepared, sign
from edgehone.registry.release import Listed, NewBundle
from edgehone.registry.shortcuts import LeftOut, Wanted, pairs
from edgehone.registry.state import read
from edgehone.registry.status import status
from edgehone_agent.delta import apply_delta
from edgehone_agent.errors import TrustError

Check = Callable[[Any], Any]


def real(old: Path, new: Path, worth: float) -> bytes | None:
    return make_delta(old, new, worth=worth)


def weights(version: int) -> bytes:
    """A model that changes a little from version to version."""
    model = bytearray(random.Random(0).randbytes(20_000))
    model[100 * version : 100 * version + 50] = bytes(50)
    return bytes(model)


def bundle(world: Any, version: int, member: str = "w22-int8", model: bytes | None = None) -> Path:
    made: Path = world.bundle("digits", version, member, model or member.encode() + weights(version))
    return made


def release(world: Any, version: int, *members: str, **wanted: Any) -> Any:
    files = [bundle(world, version, member) for member in members or ("w22-int8",)]
    return publish(
        world.store, world.ring(), files, [], world.now, anchor=world.anchor, wanted=Wanted(real, **wanted)
    )  # fmt: skip


def test_nodes_come_from_the_last_three_versions(digits: Any, second_opinion: Check, tmp_path: Path) -> None:
    for version in range(1, 6):
        done = release(digits, version)
        assert [way.from_version for way in done.deltas] == list(range(version - 1, 0, -1))[:3] and not done.left_out
    second_opinion(digits)
    info = digits.updater().get_targetinfo("digits/5-w22-int8.bundle")
    ways = {way["from"]: way["path"] for way in info.custom["edgehone"]["deltas"]}
    assert len(ways) == 3
    for version in (2, 3, 4):
        old = bundle(digits, version)
        got = tmp_path / f"{version}.delta"
        got.write_bytes(digits.get(ways[hashlib.sha256(old.read_bytes()).hexdigest()]))
        apply_delta(old, got, tmp_path / "made", info.hashes["sha256"])
        assert (tmp_path / "made").read_bytes() == bundle(digits, 5).read_bytes()
        assert got.stat().st_size < 0.1 * info.length
    found = status(digits.store, read(digits.store), digits.ring(), digits.now)
    assert found["warnings"] == []
    shown = found["tasks"][0]["releases"][0]["members"][0]["deltas"]
    assert [way["from_version"] for way in shown] == [4, 3, 2] and all(0 < way["share"] < 0.1 for way in shown)


def test_once_more_changes_nothing(digits: Any) -> None:
    release(digits, 1)
    release(digits, 2)
    before = digits.listing()
    assert not release(digits, 2).new and len(release(digits, 2).deltas) == 1
    assert not digits_without(digits, 2).new  # also when no deltas are wanted
    assert digits.listing() == before


def digits_without(world: Any, version: int) -> Any:
    return publish(world.store, world.ring(), [bundle(world, version)], [], world.now, anchor=world.anchor)


def test_too_long_a_delta_is_left_out(digits: Any, second_opinion: Check) -> None:
    release(digits, 1)
    other = digits.bundle("digits", 2, "w22-int8", random.Random(9).randbytes(20_000))
    done = publish(digits.store, digits.ring(), [other], [], digits.now, anchor=digits.anchor, wanted=Wanted(real))
    assert done.new and done.deltas == ()
    assert done.left_out == (LeftOut("w22-int8", 1, "w22-int8", "it would be longer than 60 % of the bundle"),)
    assert shortcuts.WORTH == WORTH
    second_opinion(digits)


def test_a_delta_that_does_not_work_is_never_published(digits: Any) -> None:
    release(digits, 1)
    wrong = Wanted(lambda old, new, worth: b"no delta" * 20)
    done = publish(digits.store, digits.ring(), [bundle(digits, 2)], [], digits.now, wanted=wrong)
    assert done.new and done.deltas == () and "this is no delta" in done.left_out[0].why


def test_an_old_blob_that_is_damaged_is_no_start(digits: Any) -> None:
    release(digits, 1)
    release(digits, 2)
    old = bundle(digits, 1)
    blob = digits.store.folder / blob_path("digits/1-w22-int8.bundle", hashlib.sha256(old.read_bytes()).hexdigest())
    blob.write_bytes(blob.read_bytes()[:-1])
    done = release(digits, 3)
    assert [way.from_version for way in done.deltas] == [2]
    assert [(left.from_version, left.why) for left in done.left_out] == [(1, "the old bundle is missing or altered")]
    blob.unlink()
    assert [left.from_version for left in release(digits, 4, versions=9).left_out] == [1]


def test_what_is_made_by_hand_is_not_made_again(digits: Any, tmp_path: Path) -> None:
    release(digits, 1)
    release(digits, 2)
    content = make_delta(bundle(digits, 1), bundle(digits, 3))
    assert content is not None
    (tmp_path / "hand.delta").write_bytes(content)
    asked: list[Path] = []

    def make(old: Path, new: Path, worth: float) -> bytes | None:
        asked.append(old)
        return make_delta(old, new, worth=worth)

    done = publish(
        digits.store, digits.ring(), [bundle(digits, 3)], [tmp_path / "hand.delta"], digits.now, wanted=Wanted(make)
    )
    assert len(asked) == 1 and sorted(way.from_version or 0 for way in done.deltas) == [1, 2]


@pytest.mark.parametrize(("pace_s", "made"), [(1.0, 3), (3.0, 2), (4.9, 1), (6.0, 1)])
def test_the_time_is_kept(pace_s: float, made: int, digits: Any) -> None:
    """A clock that goes on only while a delta is made; the second is begun only if it would be ready in time."""
    for version in range(1, 4):
        digits_without(digits, version)
    now = [0.0]

    def make(old: Path, new: Path, worth: float) -> bytes | None:
        now[0] += pace_s
        return make_delta(old, new, worth=worth)

    wanted = Wanted(make, budget_s=8.0, clock=lambda: now[0])
    done = publish(digits.store, digits.ring(), [bundle(digits, 4)], [], digits.now, wanted=wanted)
    assert [way.from_version for way in done.deltas] == [3, 2, 1][:made]  # the newest first
    assert {left.why for left in done.left_out} <= {"it would not be ready within 8 s"}
    assert now[0] <= 8.0 or made == 1


def test_a_release_is_never_too_large_by_its_deltas(digits: Any, second_opinion: Check) -> None:
    members = [f"m{number}" for number in range(60)]
    release(digits, 1, *members)
    done = release(digits, 2, *members)
    assert len(done.deltas) == 40 and len(done.left_out) == 20
    assert {left.why for left in done.left_out} == {"the release lists as many files as it may"}
    assert len(digits.file("task-digits")["signed"]["targets"]) == 100
    second_opinion(digits)


def test_no_room_for_the_work(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release(digits, 1)

    def make(old: Path, new: Path, worth: float) -> bytes | None:
        raise OSError(28, "No space left on device")

    before = digits.listing()
    with pytest.raises(HostError, match="No space left"):
        publish(digits.store, digits.ring(), [bundle(digits, 2)], [], digits.now, wanted=Wanted(make))
    assert digits.listing() == before


def test_deltas_are_prepared_and_signed_with_the_rest(digits: Any, second_opinion: Check, tmp_path: Path) -> None:
    release(digits, 1)
    to_sign = tmp_path / "to-sign"
    done = prepare(digits.store, to_sign, [bundle(digits, 2)], [], digits.now, wanted=Wanted(real))
    (way,) = done.deltas
    note, _ = read_prepared(to_sign)
    assert note["deltas"][0]["path"] == way.path and way.path in note["added"] and way.path in note["digests"]
    (key,) = digits.keys.glob("task-digits-*.pem")
    sign(to_sign, digits.ring(), key)
    finished = complete(digits.store, digits.ring(), to_sign, digits.now, anchor=digits.anchor)
    assert finished.new and finished.deltas == done.deltas
    second_opinion(digits)
    assert digits.get(way.path) is not None


def test_no_work_is_done_for_a_wrong_passphrase(digits: Any) -> None:
    release(digits, 1)
    before = digits.listing()

    def make(old: Path, new: Path, worth: float) -> bytes | None:
        raise AssertionError("made in vain")

    for ring, said in (
        (digits.ring(passphrase="another long passphrase"), "wrong passphrase"),
        (digits.ring(digits.folder / "no-keys"), "too few of its keys are here"),
    ):
        with pytest.raises((InputError, TrustError), match=said):
            publish(digits.store, ring, [bundle(digits, 2)], [], digits.now, wanted=Wanted(make))
        assert digits.listing() == before  # no blob either


def listed(version: int, *members: str) -> list[Listed]:
    return [
        Listed(f"t/{version}-{member}.bundle", version, member, rank, f"{version}{member}", 9, ())
        for rank, member in enumerate(members)
    ]


def new(*members: str) -> list[NewBundle]:
    return [NewBundle("t", 9, member, {}, f"9{member}", 9) for member in members]


@pytest.mark.parametrize(
    ("live", "bundles", "expected"),
    [
        ([], ["a"], []),
        ([(1, "a")], ["a"], ["1a→a"]),
        ([(1, "a", "b")], ["b", "a"], ["1b→b", "1a→a"]),
        ([(1, "a", "b")], ["c"], ["1a→c"]),  # no namesake: what most nodes have
        ([(1, "a", "b")], ["a", "c"], ["1a→a", "1b→c"]),
        ([(1, "a")], ["c", "a"], ["1a→a"]),  # the namesake has it, whatever the order
        ([(1, "a")], ["c", "d"], ["1a→c"]),
        ([(1, "a"), (2, "b"), (3, "a"), (4, "a")], ["a"], ["4a→a", "3a→a", "2b→a"]),
    ],
)
def test_who_leads_to_whom(live: list[Any], bundles: list[str], expected: list[str]) -> None:
    found = pairs([one for version, *members in live for one in listed(version, *members)], new(*bundles), 3)
    assert [f"{pair.old.sha256}→{pair.new.member}" for pair in found] == expected


def test_the_command_makes_them_and_says_so(
    digits: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHONE_PASSPHRASE", digits.passphrase)

    def run(verb: str, *words: object, code: int = 0) -> str:
        line = ["registry", verb, str(digits.store.folder), *map(str, words), "--keys", str(digits.keys)]
        assert main(line) == code
        shown = capsys.readouterr()
        return shown.out if code == 0 else shown.err

    run("publish", bundle(digits, 1))
    said = run("publish", bundle(digits, 2))
    assert "  + digits/2-w22-int8.bundle\n  digits/2-from-" in said and "% of w22-int8\n" in said
    assert "\n    delta from version 1: " in run("status")
    assert "digits/3-from" not in run("publish", bundle(digits, 3), "--no-deltas")
    done = json.loads(run("publish", bundle(digits, 4), "--deltas", "1", "--json"))
    assert [way["from_version"] for way in done["deltas"]] == [3] and done["left_out"] == []
    done = json.loads(run("publish", bundle(digits, 5), "--delta-time", "0s", "--json"))
    assert done["deltas"] == [] and [left["from_version"] for left in done["left_out"]] == [4, 3, 2]
    other = digits.bundle("digits", 6, "w22-int8", random.Random(9).randbytes(20_000))
    said = run("publish", other, "--deltas", "1")
    assert said.endswith(
        "  no delta to w22-int8 from version 5 (w22-int8): it would be longer than 60 % of the bundle\n"
    )
    assert "--deltas" in run("publish", bundle(digits, 7), "--deltas", "-1", code=4)
    assert "EH" in run("publish", bundle(digits, 7), "--delta-time", "soon", code=4)
    for words in (["--deltas", "2"], ["--no-deltas"], ["--delta-time", "1s"]):
        assert "a prepared release is complete" in run("publish", "--complete", "x", *words, code=4)
    to_sign = digits.folder / "to-sign"
    assert "% of w22-int8\n" in run("publish", bundle(digits, 7, model=weights(5)), "--prepare", to_sign, "--deltas", 9)
    (key,) = digits.keys.glob("task-digits-*.pem")
    assert main(["registry", "sign", str(to_sign), "--key", str(key)]) == 0
    assert " is a delta: " in capsys.readouterr().out
