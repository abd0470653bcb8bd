"""The capture store: what it keeps, what it drops, what it survives, and what it hands out."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgehone_agent.capture as module
from edgehone_agent._capture_seal import Seal, UnreadableError, pack, unpack
from edgehone_agent._capture_shares import PARTS, PoolName, Shares
from edgehone_agent.capture import COUNTS, Capture, read_key
from edgehone_agent.errors import ConfigError, InputError, StateError

KEY = bytes(range(32))
SMALL = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def open_capture(folder: Path, **changes: Any) -> Capture:
    return Capture(folder, **{"key": KEY, "max_bytes": SMALL, "max_age_s": 1e6, **changes})


def offer(
    capture: Capture, name: str, score: float = 0.5, stratum: str = "a", size: int = 20, fill: float = 0.5
) -> bool:
    x = np.full(size, fill, np.float32)
    return capture.offer(name, "task", "d" * 64, x, np.array([0.25, 0.75], np.float32), score, stratum)


def fill(
    capture: Capture, count: int, score: Any = None, stratum: Any = None, prefix: str = "p", size: int = 20
) -> None:
    """Offer many, none of which finds the queue full."""
    for i in range(count):
        offer(capture, f"{prefix}{i}", 0.5 if score is None else score(i), "a" if stratum is None else stratum(i), size)
        if i % 500 == 499:
            capture.flush()
    capture.flush()


def event(number: int, prediction: str = "p0", kind: str = "confirm", **more: Any) -> dict[str, Any]:
    return {"id": f"e{number}", "prediction_id": prediction, "kind": kind, **more}


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "capture.sqlite") as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for file in sorted((folder / kind).glob("*.jsonl")) for line in file.read_text().splitlines()
    ]


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    with open_capture(tmp_path / "c", max_bytes=4 * SMALL) as opened:
        yield opened


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Capture]:
    with open_capture(tmp_path / "c") as opened:
        yield opened


class TestWhatIsKept:
    def test_everything_while_there_is_room(self, capture: Capture, tmp_path: Path) -> None:
        fill(capture, 100)
        assert capture.stats()["samples"] == 100
        assert rows(tmp_path / "c", "SELECT COUNT(*), MIN(propensity) FROM place WHERE share = 'uniform'") == [
            (100, 1.0)
        ]

    def test_the_bytes_are_bounded_and_so_is_the_file(self, small: Capture, tmp_path: Path) -> None:
        fill(small, 6000, score=lambda i: i % 977, stratum=lambda i: str(i % 5))
        stats = small.stats()
        assert stats["sample_bytes"] <= 0.9 * SMALL
        for share, part in PARTS.items():
            held = stats["shares"][share]
            assert held["budget_bytes"] == int(part * int(0.9 * SMALL))
            assert 0.9 * held["budget_bytes"] < held["bytes"] <= held["budget_bytes"]
        assert (tmp_path / "c" / "capture.sqlite").stat().st_size <= 1.25 * SMALL
        assert (tmp_path / "c" / "capture.sqlite-wal").stat().st_size <= 5 << 20

    def test_every_offer_is_counted_once(self, small: Capture) -> None:
        fill(small, 6000, score=lambda i: i % 977)
        counts = small.stats()["counts"]
        assert set(counts) == set(COUNTS)
        assert counts["offered"] == 6000
        assert counts["kept"] + counts["not_chosen"] == 6000
        assert counts["kept"] - counts["evicted"] == small.stats()["samples"] > 0
        assert counts["not_chosen"] > 0

    def test_the_totals_are_those_of_the_file(self, small: Capture, tmp_path: Path) -> None:
        fill(small, 3000, score=lambda i: i % 977)
        for i in range(3000):
            if i % 100 == 0:
                small.feedback(event(i, prediction=f"p{i}", kind="delete" if i % 200 else "confirm"))
        stats = small.stats()
        held = rows(
            tmp_path / "c", "SELECT COUNT(*), SUM(size) FROM sample UNION ALL SELECT COUNT(*), SUM(size) FROM feedback"
        )
        assert held == [(stats["samples"], stats["sample_bytes"]), (stats["feedback"], stats["feedback_bytes"])]
        assert stats["counts"]["deleted"] > 0

    def test_the_most_informative_stay(self, small: Capture, tmp_path: Path) -> None:
        scores = np.random.default_rng(3).permutation(6000)
        fill(small, 6000, score=lambda i: float(scores[i]))
        kept = [score for (score,) in rows(tmp_path / "c", "SELECT -rank FROM place WHERE share = 'informative'")]
        assert sorted(kept, reverse=True) == [float(5999 - i) for i in range(len(kept))]

    def test_strata_come_to_equal_bytes_and_small_ones_keep_everything(self, small: Capture, tmp_path: Path) -> None:
        fill(small, 6000, stratum=lambda i: "rare" if i % 400 == 0 else "often" if i % 3 else "sometimes")
        held = dict(rows(tmp_path / "c", "SELECT stratum, COUNT(*) FROM place WHERE share = 'stratified' GROUP BY 1"))
        assert held["rare"] == 15
        assert abs(held["often"] - held["sometimes"]) <= 1

    def test_a_score_that_is_no_number_is_worth_nothing(self, capture: Capture, tmp_path: Path) -> None:
        for name, score in (("nan", np.nan), ("inf", np.inf), ("two", 2.0)):
            offer(capture, name, score)
        capture.flush()
        found = dict(rows(tmp_path / "c", "SELECT id, informativeness FROM sample"))
        assert found == {"nan": 0.0, "inf": 1e299, "two": 2.0}

    def test_the_same_id_is_kept_once(self, capture: Capture) -> None:
        for _ in range(3):
            offer(capture, "again")
        capture.flush()
        assert capture.stats()["samples"] == 1

    def test_a_sample_that_no_share_can_hold_is_not_chosen(self, capture: Capture) -> None:
        assert not offer(capture, "huge", size=4 * SMALL)
        assert capture.stats()["counts"]["not_chosen"] == 1

    def test_strata_beyond_counting_are_one(self, capture: Capture, tmp_path: Path) -> None:
        fill(capture, 400, stratum=lambda i: f"s{i}")
        found = rows(tmp_path / "c", "SELECT COUNT(DISTINCT stratum) FROM place WHERE share = 'stratified'")
        assert found[0][0] <= 256
        assert capture.stats()["samples"] == 400


class TestThePropensity:
    """The uniform share estimates totals of the stream without bias: each sample counts one over its propensity."""

    def estimate(self, folder: Path, seed: int, **changes: Any) -> tuple[float, float, int]:
        with open_capture(folder, seed=seed, max_bytes=1 << 18, **changes) as capture:
            # The second half of the stream is high, and what is kept elsewhere must not matter.
            fill(capture, 1500, score=lambda i: i, stratum=lambda i: str(i // 750))
            capture.export(folder / "out")
        found = [line for line in lines(folder / "out", "samples") if "uniform" in line["shares"]]
        weights = [1 / line["shares"]["uniform"] for line in found]
        high = [weight for weight, line in zip(weights, found, strict=True) if line["stratum"] == "1"]
        return sum(weights), sum(high), len(found)

    def test_it_counts_the_stream(self, tmp_path: Path) -> None:
        found = np.array([self.estimate(tmp_path / str(seed), seed) for seed in range(30)])
        kept = found[:, 2].mean()
        assert kept < 60  # so a fixed weight of 1 would be far off
        spread = 1500 / np.sqrt(kept * len(found))
        assert abs(found[:, 0].mean() - 1500) < 4 * spread
        assert abs(found[:, 1].mean() - 750) < 4 * spread

    def test_it_stays_true_when_samples_grow_old_and_the_node_restarts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_TIDY_S", 0.0)
        totals = []
        for seed in range(30):
            clock, folder = Clock(), tmp_path / str(seed)
            for part in range(3):
                with open_capture(folder, seed=seed, max_bytes=1 << 18, max_age_s=900, clock=clock) as capture:
                    for i in range(600):
                        clock.now += 1
                        offer(capture, f"{part}-{i}")
                        if i % 100 == 99:
                            capture.flush()
            with open_capture(folder, seed=seed, max_bytes=1 << 18, max_age_s=900, clock=clock) as capture:
                capture.export(folder / "out")
            found = [line for line in lines(folder / "out", "samples") if "uniform" in line["shares"]]
            assert all(line["time"] >= clock.now - 900 for line in found)
            totals.append((sum(1 / line["shares"]["uniform"] for line in found), len(found)))
        sums, kept = np.array(totals).T
        assert kept.mean() < 60
        # 900 seconds hold 900 offers; some samples weigh more than others, so the spread is wider than the count's.
        assert abs(sums.mean() - 900) < 5 * sums.std(ddof=1) / np.sqrt(len(sums))
        assert sums.std(ddof=1) < 500

    def test_restarts_do_not_draw_the_same_numbers(self, tmp_path: Path) -> None:
        ranks = []
        for part in range(2):
            with open_capture(tmp_path / "c") as capture:
                capture.flush()
                offer(capture, f"p{part}")
        ranks = rows(tmp_path / "c", "SELECT rank FROM place WHERE share = 'uniform'")
        assert len(set(ranks)) == 2

    def test_the_same_seed_keeps_the_same(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            with open_capture(tmp_path / name, seed=5, max_bytes=1 << 18) as capture:
                capture.flush()
                for i in range(800):  # flushed each time: which rows are committed together depends on the machine
                    offer(capture, f"p{i}", i % 7)
                    if i % 50 == 49:
                        capture.flush()
        query = "SELECT share, stratum, rank FROM place ORDER BY 1, 2, 3"
        assert rows(tmp_path / "one", query) == rows(tmp_path / "two", query)


class TestShares:
    def test_a_pool_that_shrinks_lets_in_more_and_keeps_its_promise(self) -> None:
        shares, name = Shares(1000), PoolName("uniform", "")
        for _ in range(4):
            shares.add(name, 10)
        shares.limit(name, 0.1)
        (raised,) = shares.raise_thresholds()
        assert raised == (name, 0.1, 0.2)
        shares.add(name, 30)
        assert list(shares.raise_thresholds()) == []

    def test_an_empty_pool_starts_anew(self) -> None:
        shares, name = Shares(1000), PoolName("stratified", "a")
        shares.limit(name, 0.001)
        assert [raised.after for raised in shares.raise_thresholds()] == [1.0]
        assert shares.pools == {}

    def test_the_propensity_is_the_least_threshold(self) -> None:
        shares, name = Shares(1000), PoolName("uniform", "")
        shares.limit(name, 0.3)
        assert shares.admit(name, 0.2, 0.9) == (name, 0.2, 0.3)
        assert shares.admit(name, 0.2, 0.25) == (name, 0.2, 0.25)
        assert shares.admit(name, 0.3) is None


class TestAge:
    def test_old_samples_leave(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_TIDY_S", 0.0)
        clock = Clock()
        with open_capture(tmp_path / "c", clock=clock, max_age_s=100) as capture:
            fill(capture, 50, prefix="old")
            clock.now += 101
            fill(capture, 10, prefix="new")
            assert capture.stats()["samples"] == 10
            assert capture.stats()["counts"]["expired"] == 50

    def test_feedback_does_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_TIDY_S", 0.0)
        clock = Clock()
        with open_capture(tmp_path / "c", clock=clock, max_age_s=100) as capture:
            capture.feedback(event(1))
            clock.now += 1000
            capture.flush()
            assert capture.export(tmp_path / "out")["feedback"] == 1
            clock.now += 1000
            capture.flush()
            assert capture.stats()["feedback"] == 0  # it was exported, and its id is forgotten by now


class TestFeedback:
    def test_it_is_there_after_a_restart_with_every_field(self, tmp_path: Path) -> None:
        sent = event(1, kind="correct", label="cat", annotator="ann", trust=0.5, time=3.0, mood={"unknown": [1, None]})
        with open_capture(tmp_path / "c") as capture:
            capture.feedback(sent)
        with open_capture(tmp_path / "c", clock=lambda: 7.0) as capture:
            capture.export(tmp_path / "out")
        (line,) = lines(tmp_path / "out", "feedback")
        assert line["event"] == sent

    def test_the_same_event_twice_is_one(self, capture: Capture, tmp_path: Path) -> None:
        for _ in range(3):
            capture.feedback(event(1, trust=0.5))
        capture.feedback(dict(reversed(event(1, trust=0.5).items())))
        assert capture.stats()["feedback"] == 1
        capture.export(tmp_path / "out")
        capture.feedback(event(1, trust=0.5))
        assert capture.export(tmp_path / "out")["feedback"] == 0

    def test_another_event_with_a_known_id_is_refused(self, capture: Capture) -> None:
        capture.feedback(event(1))
        with pytest.raises(InputError, match="another event with this id"):
            capture.feedback(event(1, prediction="p9"))
        assert capture.stats()["feedback"] == 1

    def test_a_malformed_event_is_refused_and_the_next_is_taken(self, capture: Capture) -> None:
        with pytest.raises(InputError):
            capture.feedback({"kind": "confirm"})
        capture.feedback(event(2))

    def test_many_at_once(self, capture: Capture) -> None:
        def send(first: int) -> None:
            for i in range(20):
                capture.feedback(event(first + i))

        threads = [threading.Thread(target=send, args=(1000 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert capture.stats()["feedback"] == 160

    def test_its_room_is_bounded_and_nothing_acknowledged_makes_room(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c", max_bytes=1 << 18) as capture:
            taken = 0
            with pytest.raises(StateError, match="the room for feedback is full"):
                for i in range(1000):
                    capture.feedback(event(i, note="x" * 1000))
                    taken += 1
            assert 0 < taken == capture.stats()["feedback"]
            assert capture.export(tmp_path / "out")["feedback"] == taken
            capture.feedback(event(5000))

    def test_a_labelled_sample_outlasts_better_ones(self, capture: Capture, tmp_path: Path) -> None:
        offer(capture, "poor", score=-5.0)
        capture.feedback(event(1, prediction="poor", kind="correct", label="cat"))
        capture.feedback(event(2, prediction="later", kind="confirm"))
        offer(capture, "later", score=-5.0)  # what is said may come before what it is about
        fill(capture, 8000, score=lambda i: i)
        held = {
            name
            for (name,) in rows(
                tmp_path / "c", "SELECT id FROM sample JOIN place ON sample = row AND share = 'informative'"
            )
        }
        assert {"poor", "later"} <= held


class TestDelete:
    def test_nothing_of_the_sample_is_left_on_disk(self, capture: Capture, tmp_path: Path) -> None:
        fill(capture, 300)
        sealed = rows(tmp_path / "c", "SELECT sealed FROM sample WHERE id = 'p7'")[0][0]
        assert any(sealed in file.read_bytes() for file in (tmp_path / "c").iterdir())
        capture.feedback(event(1, prediction="p7", kind="delete"))
        assert not any(sealed in file.read_bytes() for file in (tmp_path / "c").iterdir())
        assert capture.stats()["counts"]["deleted"] == 1
        assert capture.export(tmp_path / "out")["samples"] == 299

    def test_a_deleted_sample_does_not_come_back(self, capture: Capture) -> None:
        capture.feedback(event(1, prediction="late", kind="delete"))
        offer(capture, "late")
        capture.flush()
        assert capture.stats()["samples"] == 0


class TestExport:
    def test_it_gives_back_what_was_offered(self, capture: Capture, tmp_path: Path) -> None:
        random = np.random.default_rng(1)
        readings = {f"f{i}": random.standard_normal((3, 4, 4), np.float32) for i in range(5)}
        readings |= {f"u{i}": random.integers(0, 256, (3, 8, 8)).astype(np.float32) for i in range(300)}
        for name, x in readings.items():
            capture.offer(name, "task", "d", x, x[:, 0, 0] * np.float32(0.5), 1.5, "s")
        capture.flush()
        told = capture.export(tmp_path / "out", evidence={"task": {"rows": 9}})
        assert (told["samples"], told["feedback"], told["unreadable"]) == (305, 0, 0)
        assert all((tmp_path / "out" / name).stat().st_mode & 0o777 == 0o600 for name in told["files"])
        found = lines(tmp_path / "out", "samples")
        assert {line["id"] for line in found} == set(readings)
        for line in found:
            with np.load(tmp_path / "out" / "samples" / line["file"], allow_pickle=False) as arrays:
                x, values = arrays["x"][line["row"]], arrays["values"][line["row"]]
            np.testing.assert_array_equal(x, readings[line["id"]])
            np.testing.assert_array_equal(values, x[:, 0, 0] * np.float32(0.5))
            assert x.dtype == np.float32
            assert line["shares"]["uniform"] == line["shares"]["stratified"] == 1.0
            assert line["shares"]["informative"] is None
        (report,) = (tmp_path / "out" / "evidence").iterdir()
        assert json.loads(report.read_text())["evidence"] == {"task": {"rows": 9}}

    def test_never_twice(self, capture: Capture, tmp_path: Path) -> None:
        fill(capture, 30)
        capture.feedback(event(1))
        assert capture.export(tmp_path / "out")["samples"] == 30
        fill(capture, 30)  # the same ids once more
        fill(capture, 5, prefix="q")
        second = capture.export(tmp_path / "out")
        assert (second["samples"], second["feedback"]) == (5, 0)
        ids = Counter(line["id"] for line in lines(tmp_path / "out", "samples"))
        assert len(ids) == 35 and set(ids.values()) == {1}

    @pytest.mark.parametrize("good_writes", range(5))
    def test_a_cut_export_goes_on(self, tmp_path: Path, good_writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        import edgehone_agent._capture_export as exporting

        real, left = exporting.write_bytes, [good_writes]

        def limited(path: Path, content: bytes, *, mode: int) -> None:
            if not left[0]:
                raise StateError("No space left on device", where=str(path))
            left[0] -= 1
            real(path, content, mode=mode)

        with open_capture(tmp_path / "c") as capture:
            fill(capture, 300)
            capture.feedback(event(1))
            monkeypatch.setattr(exporting, "write_bytes", limited)
            with pytest.raises(StateError):
                capture.export(tmp_path / "out")
            monkeypatch.setattr(exporting, "write_bytes", real)
        with open_capture(tmp_path / "c") as capture:
            fill(capture, 10, prefix="more")
            capture.export(tmp_path / "out")
        ids = Counter(line["id"] for line in lines(tmp_path / "out", "samples"))
        assert len(ids) == 310 and set(ids.values()) == {1}
        assert [line["event"]["id"] for line in lines(tmp_path / "out", "feedback")] == ["e1"]

    def test_a_damaged_payload_is_left_out_and_counted(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c") as capture:
            fill(capture, 3)
        with sqlite3.connect(tmp_path / "c" / "capture.sqlite") as connection:
            moved = connection.execute("SELECT sealed FROM sample WHERE id = 'p0'").fetchone()
            connection.execute("UPDATE sample SET sealed = ? WHERE id = 'p1'", moved)
        connection.close()
        with open_capture(tmp_path / "c") as capture:
            told = capture.export(tmp_path / "out")
        assert (told["samples"], told["unreadable"]) == (2, 1)

    def test_two_stores_share_a_folder(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            with open_capture(tmp_path / name) as capture:
                fill(capture, 5, prefix=name)
                capture.export(tmp_path / "out")
        assert len(lines(tmp_path / "out", "samples")) == 10


class TestSealing:
    def test_no_value_stands_open(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c") as capture:
            offer(capture, "p0", fill=1234.5)
            capture.feedback(event(1, kind="correct", label="secret-label", note="secret-note"))
            capture.flush()
            content = b"".join(file.read_bytes() for file in (tmp_path / "c").iterdir())
        assert np.full(20, 1234.5, np.float32).tobytes() not in content
        assert b"secret" not in content
        assert b"p0" in content

    def test_only_the_owner_may_read(self, capture: Capture, tmp_path: Path) -> None:
        capture.flush()
        assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / "c").iterdir()} == {0o600}

    def test_a_payload_opens_only_in_its_row_and_with_its_key(self) -> None:
        seal = Seal(KEY)
        sealed = seal.close(b"payload", "row 1")
        assert seal.open(sealed, "row 1") == b"payload"
        assert seal.close(b"payload", "row 1") != sealed
        for other, row, content in (
            (seal, "row 2", sealed),
            (Seal(b"x" * 32), "row 1", sealed),
            (seal, "row 1", sealed[:9]),
        ):
            with pytest.raises(UnreadableError):
                other.open(content, row)

    @pytest.mark.parametrize("dtype", ["<f4", "<f8", "|u1", "<i8", "|b1"])
    @pytest.mark.parametrize("shape", [(), (0,), (100,), (3, 5, 7)])
    def test_arrays_come_back(self, dtype: str, shape: tuple[int, ...]) -> None:
        array = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
        (found,) = unpack(*pack(array))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)

    @pytest.mark.parametrize(
        ("value", "itemsize"), [(255.0, 1), (0.0, 1), (-1.0, 4), (256.0, 4), (0.5, 4), (np.nan, 4), (np.inf, 4)]
    )
    def test_a_picture_takes_one_byte_a_value_when_nothing_is_lost(self, value: float, itemsize: int) -> None:
        array = np.full(64, value, np.float32)
        layout, content = pack(array)
        assert len(content) == 64 * itemsize
        np.testing.assert_array_equal(unpack(layout, content)[0], array)

    def test_the_key_is_made_once(self, tmp_path: Path) -> None:
        key = read_key(tmp_path / "key")
        assert len(key) == 32 and read_key(tmp_path / "key") == key
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
        (tmp_path / "key").write_bytes(b"short")
        with pytest.raises(StateError, match="5 bytes"):
            read_key(tmp_path / "key")

    @pytest.mark.parametrize(
        "changes", [{"key": b"short"}, {"max_bytes": 1000}, {"max_age_s": 0}, {"max_age_s": float("nan")}]
    )
    def test_settings_that_cannot_work_are_refused(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            open_capture(tmp_path / "c", **changes)


def damage_header(path: Path) -> None:
    path.write_bytes(b"nothing like a database" + path.read_bytes()[23:])


def damage_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:-4096] = os.urandom(len(content) - 8192)
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def newer_schema(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


class TestDamage:
    @pytest.mark.parametrize("damage", [damage_header, damage_middle, cut_short, another_database, newer_schema])
    def test_a_damaged_file_is_put_aside_and_a_new_one_begun(self, tmp_path: Path, damage: Any) -> None:
        with open_capture(tmp_path / "c") as capture:
            fill(capture, 300)
        damage(tmp_path / "c" / "capture.sqlite")
        for file in ("capture.sqlite-wal", "capture.sqlite-shm"):
            (tmp_path / "c" / file).unlink(missing_ok=True)
        broken = (tmp_path / "c" / "capture.sqlite").read_bytes()
        with open_capture(tmp_path / "c") as capture:
            capture.feedback(event(1))
            fill(capture, 10)
            stats = capture.stats()
        assert stats["error"] is None and stats["samples"] == 10
        (said,) = stats["put_aside"]
        assert said.startswith("capture.sqlite.aside-1: ")
        assert (tmp_path / "c" / "capture.sqlite.aside-1").read_bytes()[100:] == broken[100:]

    def test_another_key_starts_anew(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c") as capture:
            fill(capture, 3)
        with open_capture(tmp_path / "c", key=b"another key of 32 bytes ........") as capture:
            capture.flush()
            assert "another key" in capture.stats()["put_aside"][0]
            assert capture.stats()["samples"] == 0

    def test_damage_while_running_is_met_by_a_new_file(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c", max_bytes=16 * SMALL) as capture:
            fill(capture, 5000, score=lambda i: -i)  # more than the library keeps in memory
            capture.feedback(event(1, prediction="p0", kind="delete"))  # empties the log: the file is all there is
            damage_middle(tmp_path / "c" / "capture.sqlite")
            for i in range(200):
                capture.feedback(event(100 + i, prediction=f"p{23 * i}"))
                offer(capture, f"new{i}")
                if capture.stats()["put_aside"]:
                    break
            capture.flush()
            stats = capture.stats()
            assert stats["error"] is None
            assert len(stats["put_aside"]) == 1
            # The event that met the damage was acknowledged, so it is in the new file.
            ids = [id for (id,) in rows(tmp_path / "c", "SELECT id FROM feedback")]
            assert f"e{100 + i}" in ids and len(ids) == stats["feedback"]

    def test_only_the_newest_three_are_kept(self, tmp_path: Path) -> None:
        for number in range(5):
            folder = tmp_path / "c"
            folder.mkdir(exist_ok=True)
            (folder / "capture.sqlite").write_bytes(b"damaged " * 1000 + bytes([number]))
            with open_capture(folder) as capture:
                capture.flush()
        names = sorted(file.name for file in folder.glob("*.aside-*[0-9]"))
        assert names == [f"capture.sqlite.aside-{number}" for number in (3, 4, 5)]


class TestABadDisk:
    def test_a_full_disk_is_reported_and_recovers_unaided(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_RETRY_S", 0.05)
        with open_capture(tmp_path / "c", max_bytes=8 * SMALL) as capture:
            capture.feedback(event(1))
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # a file cannot grow beyond it
            try:
                started = time.monotonic()
                for i in range(2000):
                    offer(capture, f"a{i}")
                assert time.monotonic() - started < 5
                with pytest.raises(StateError, match="cannot be written"):
                    for i in range(2, 2000):
                        capture.feedback(event(i, note="x" * 2000))
                taken = i
                stats = capture.stats()
                assert "cannot be written" in stats["error"]
                assert stats["counts"]["dropped_queue_full"] + stats["counts"]["dropped_not_written"] > 0
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            offer(capture, "after")
            deadline = time.monotonic() + 20
            while capture.stats()["error"] is not None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert capture.stats()["error"] is None
            capture.feedback(event(taken, note="x" * 2000))  # what was refused is sent again
            assert {f"e{i}" for i in range(1, taken + 1)} == {
                n for (n,) in rows(tmp_path / "c", "SELECT id FROM feedback")
            }
            assert "after" in {name for (name,) in rows(tmp_path / "c", "SELECT id FROM sample")}

    def test_a_folder_that_cannot_be_made_stops_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_RETRY_S", 0.05)
        (tmp_path / "c").write_text("a file stands where the folder should be")
        with open_capture(tmp_path / "c") as capture:
            assert offer(capture, "p0")
            with pytest.raises(StateError):
                capture.feedback(event(1))
            with pytest.raises(StateError):
                capture.flush()
            with pytest.raises(StateError):
                capture.export(tmp_path / "out")
            assert "free space or fix the permission" in capture.stats()["error"]
            (tmp_path / "c").unlink()
            capture.feedback(event(1))
            assert capture.stats()["error"] is None

    def test_overload_drops_samples_and_never_blocks(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c", max_bytes=4 * SMALL) as capture:
            capture.flush()
            held = sqlite3.connect(tmp_path / "c" / "capture.sqlite", isolation_level=None)
            held.execute("BEGIN IMMEDIATE")  # the writer waits for this one
            started = time.monotonic()
            taken = sum(offer(capture, f"p{i}") for i in range(3000))
            assert time.monotonic() - started < 5
            assert 1024 <= taken <= 1024 + 100
            assert capture.stats()["counts"]["dropped_queue_full"] == 3000 - taken
            held.execute("ROLLBACK")
            held.close()
            capture.flush()
            assert capture.stats()["samples"] == taken

    def test_two_processes_may_use_it(self, capture: Capture, tmp_path: Path) -> None:
        fill(capture, 20)
        with open_capture(tmp_path / "c") as other:
            assert other.export(tmp_path / "out")["samples"] == 20
        fill(capture, 5, prefix="after")
        assert capture.stats()["samples"] == 5
        held = capture.stats()["shares"]["uniform"]
        assert held["samples"] == 5


class TestClosing:
    def test_it_writes_what_waits(self, tmp_path: Path) -> None:
        capture = open_capture(tmp_path / "c")
        for i in range(50):
            offer(capture, f"p{i}")
        capture.close()
        capture.close()
        assert len(rows(tmp_path / "c", "SELECT id FROM sample")) == 50

    def test_after_it_nothing_is_taken(self, tmp_path: Path) -> None:
        capture = open_capture(tmp_path / "c")
        capture.close()
        assert not offer(capture, "p0")
        for call in (capture.flush, lambda: capture.feedback(event(1)), lambda: capture.export(tmp_path / "out")):
            with pytest.raises(StateError, match="closed"):
                call()

    def test_a_smaller_budget_holds_at_the_next_start(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c") as capture:
            fill(capture, 1500, score=lambda i: i)
        with open_capture(tmp_path / "c", max_bytes=SMALL // 2) as capture:
            capture.flush()
            assert 0 < capture.stats()["sample_bytes"] <= 0.45 * SMALL

    def test_a_folder_that_was_copied_goes_on(self, tmp_path: Path) -> None:
        with open_capture(tmp_path / "c") as capture:
            fill(capture, 10)
        shutil.copytree(tmp_path / "c", tmp_path / "d")
        with open_capture(tmp_path / "d") as capture:
            assert capture.export(tmp_path / "out")["samples"] == 10
