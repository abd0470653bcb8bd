"""The pure parts of learning: scales, heads, verdicts and the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone_agent.errors import StateError
from edgehone_agent.learn import last_layer
from edgehone_agent.learn.kept import Kept
from edgehone_agent.learn.last_layer import Head, Row, fit, is_worth
from edgehone_agent.learn.statistics import MAX_GAIN, Reference, Scale, estimate, measure, reference_of
from edgehone_agent.learn.verdict import Verdict

DIGEST = "ab" * 32


def reference(x: np.ndarray) -> Reference:
    y = np.eye(3, dtype=np.float32)[np.random.default_rng(9).integers(0, 3, len(x))]
    found = reference_of(build_card(x, y, None, kind="classification", model_digest=DIGEST, in_order=False))
    assert isinstance(found, Reference)
    return found


def table(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found: np.ndarray = (rng.normal(size=(rows, 4)) * [1, 5, 0.1, 1] + [0, 20, 3, -4]).astype(np.float32)
    found[:, 3] = -4  # it never varies
    return found


def pictures(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found: np.ndarray = rng.uniform(0, 1, (rows, 3, 8, 8)) * rng.uniform(0.5, 1, (rows, 1, 1, 1)) * 200
    return found.astype(np.float32)


class TestTheScale:
    def test_of_a_table_is_per_feature_and_takes_the_drift_out(self) -> None:
        known = reference(table(2_000, 0))
        x = table(256, 1) * np.float32([1, 0.5, 1, 1]) + np.float32([3, 0, 0, 1])
        scale = estimate(measure(x, known), known)
        assert isinstance(scale, Scale) and scale.rows == 256
        assert scale.gain == pytest.approx([1, 2, 1, 1], rel=0.2) and scale.gain[[0, 2, 3]].tolist() == [1, 1, 1]
        assert scale.offset == pytest.approx([-3, 0, 0, 0], abs=0.5)  # what never varied is left alone
        back = scale.apply(x, 1)
        assert np.median(back, 0)[:3] == pytest.approx([0, 20, 3], abs=1.0)

    def test_of_pictures_has_one_gain_and_an_offset_per_plane(self) -> None:
        known = reference(pictures(1_000, 0))
        x = pictures(128, 1) * np.float32(0.5)
        x[:, 2] += 10  # a tint
        scale = estimate(measure(x, known), known)
        assert isinstance(scale, Scale) and scale.gain.shape == (3,)
        assert scale.gain == pytest.approx(1.9, rel=0.1) and scale.offset[2] < -10 and abs(scale.offset[0]) < 5
        assert scale.apply(x, 3).shape == x.shape and scale.apply(x[0], 3).shape == x[0].shape

    def test_what_may_be_chance_and_too_few_readings_change_nothing(self) -> None:
        known = reference(table(2_000, 0))
        found = [estimate(measure(table(64, seed), known), known) for seed in range(1, 101)]
        assert sum(isinstance(scale, Scale) for scale in found) <= 10
        assert "31 of 32" in str(estimate(measure(table(31, 1) * 9, known), known))

    def test_fewer_readings_go_less_far_and_no_gain_is_above_the_limit(self) -> None:
        known = reference(table(2_000, 0))
        moved = table(512, 1) + np.float32([0, 40, 0, 0])
        few, many = (estimate(measure(moved[:n], known), known) for n in (32, 512))
        assert isinstance(few, Scale) and isinstance(many, Scale)
        assert -36 < few.offset[1] < -28 and many.offset[1] == pytest.approx(-40, abs=2)
        dark = estimate(measure(table(512, 1) * np.float32([1, 0.12, 1, 1]), known), known)
        assert isinstance(dark, Scale) and 3.5 < dark.gain[1] <= MAX_GAIN

    def test_a_sensor_that_sticks_or_shouts_is_left_alone(self) -> None:
        known = reference(table(2_000, 0))
        stuck, loud = table(128, 1), table(128, 1)
        stuck[:, 1], loud[:, 1] = 7.0, loud[:, 1] + 1e4
        assert "fault of a sensor" in str(estimate(measure(stuck, known), known))
        assert "fault of a sensor" in str(estimate(measure(loud, known), known))

    def test_a_few_odd_readings_move_nothing(self) -> None:
        known = reference(table(2_000, 0))
        x = table(128, 1)
        x[::20] = 1e6
        assert isinstance(estimate(measure(x, known), known), str)


def rows(count: int, seed: int, *, turned: bool = True, noise: float = 0.0, classes: int = 3) -> list[Row]:
    """Embeddings around one place per class; the signed model knows the class, labels say the next one."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, classes, count)
    embedding = (np.eye(classes, 6)[right] * 3 + rng.normal(size=(count, 6)) * 0.3 + 2).astype(np.float32)
    y = (np.eye(classes)[right] * 8).astype(np.float32)
    label = np.where(rng.random(count) < noise, rng.integers(0, classes, count), (right + turned) % classes)
    return [Row(str(n), y[n], embedding[n], int(label[n])) for n in range(count)]


def share_right(head: Head, of: list[Row]) -> float:
    return float(np.mean([head.answer(row.y, row.embedding).argmax() == row.label for row in of]))


class TestTheHead:
    def test_learns_what_labels_say_and_the_same_twice(self) -> None:
        first, second = (fit(rows(60, 0), probabilities=False).head for _ in range(2))
        assert first is not None and second is not None
        assert share_right(first, rows(200, 1)) > 0.95
        assert first.weights.tobytes() == second.weights.tobytes() and first.bias.tobytes() == second.bias.tobytes()
        stacked = [np.stack([row[part] for row in rows(20, 2)]) for part in (1, 2)]
        one_by_one = [first.answer(row.y, row.embedding) for row in rows(20, 2)]
        np.testing.assert_allclose(first.answer(*stacked), one_by_one, rtol=1e-5)

    def test_of_probabilities_answers_probabilities(self) -> None:
        found = [row._replace(y=np.exp(row.y) / np.exp(row.y).sum()) for row in rows(60, 0)]
        found[0] = found[0]._replace(y=np.float32([1, 0, 0]))  # an int8 file says 0
        head = fit(found, probabilities=True).head
        assert head is not None
        answer = head.answer(found[1].y, found[1].embedding)
        assert answer.sum() == pytest.approx(1, abs=1e-5) and answer.argmax() == found[1].label

    def test_needs_labels_of_classes_and_something_to_gain(self) -> None:
        few = [row for row in rows(60, 0) if row.label == 0][:9] + [row for row in rows(60, 0) if row.label == 1][:4]
        assert "1 of 2 classes" in fit(few, probabilities=False).why and fit([], probabilities=False).head is None
        same = fit(rows(100, 0, turned=False), probabilities=False)
        assert same.head is None and "nothing to gain" in same.why
        assert not any(fit(rows(60, n, noise=1.0), probabilities=False).head for n in range(3) if n != 1)

    def test_a_class_without_labels_keeps_its_scores(self) -> None:
        head = fit([row for row in rows(120, 0, classes=4) if row.label != 2], probabilities=False).head
        assert head is not None and not head.weights[2].any() and head.bias[2] == 0 and head.weights[1].any()

    def test_the_labels_of_before_a_restart_still_weigh(self) -> None:
        first = fit(rows(200, 0), probabilities=False).head
        assert first is not None
        again = fit(rows(40, 5), probabilities=False, before=first)
        assert again.head is not None and again.head.rows == 240 and (again.gained, again.lost) == (40, 0)
        other = [row._replace(label=(row.label + 1) % 3) for row in rows(60, 6)]
        turned = fit(other, probabilities=False, before=first).head
        assert turned is not None and turned.rows == 260 and share_right(turned, other) > 0.9

    def test_its_norm_is_capped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        free = fit(rows(60, 0), probabilities=False).head
        monkeypatch.setattr(last_layer, "MAX_NORM", 0.1)
        capped = fit(rows(60, 0), probabilities=False).head
        assert free is not None and capped is not None
        assert np.linalg.norm(capped.weights) < 0.1 * np.linalg.norm(free.weights)

    def test_more_values_than_rows(self) -> None:
        wide = [
            row._replace(embedding=np.concatenate([row.embedding, np.zeros(500, np.float32)])) for row in rows(60, 0)
        ]
        narrow, found = (fit(r, probabilities=False).head for r in (rows(60, 0), wide))
        assert narrow is not None and found is not None
        np.testing.assert_allclose(found.weights[:, :6], narrow.weights, atol=0.05)
        assert np.abs(found.weights[:, 6:]).max() < 1e-5

    def test_what_is_worth_while(self) -> None:
        assert (
            is_worth(7, 0) and is_worth(35, 12) and not is_worth(6, 0) and not is_worth(0, 0) and not is_worth(20, 12)
        )


class TestTheVerdict:
    def test_what_is_as_good_is_kept_and_what_is_worse_is_found(self) -> None:
        rng, verdict, dropped = np.random.default_rng(0), Verdict(), 0
        for _ in range(20):
            verdict = Verdict()
            for _ in range(500):
                verdict.compare(0, learnt=int(rng.random() < 0.2), own=int(rng.random() < 0.2))
            dropped += verdict.is_worse
        assert dropped <= 2  # at most one in a thousand of some 160 rows each, by the bound
        worse = Verdict()
        while not worse.is_worse and worse.rows < 200:
            worse.compare(0, learnt=int(rng.random() < 0.5), own=int(rng.random() < 0.1))
        assert worse.is_worse and "the signed model had" in worse.words

    def test_its_state_goes_on(self) -> None:
        verdict, other = Verdict(), Verdict()
        for n in range(50):
            verdict.compare(0, learnt=n % 2, own=0)
        other.restore(verdict.to_bytes())
        assert other.to_bytes() == verdict.to_bytes() and (other.rows, other.wrong, other.own_wrong) == (50, 25, 0)
        with pytest.raises(StateError):
            other.restore(verdict.to_bytes()[:-1])


SCALE = Kept(
    DIGEST, "statistics", "active", Scale(np.float32([2, 1]), np.float32([-1, 0]), 40), 0.125, Verdict().to_bytes()
)
HEAD = replace(
    SCALE, kind="last-layer", change=Head(np.ones((3, 4), np.float32), np.zeros(3, np.float32), True, 9), why="it is so"
)
DROPPED = replace(HEAD, state="dropped", change=None, why="schlechter als das signierte Modell: ä" * 30)


class TestTheFile:
    @pytest.mark.parametrize("kept", [SCALE, HEAD, DROPPED])
    def test_comes_back_as_it_was(self, kept: Kept) -> None:
        content = kept.to_bytes()
        found = Kept.from_bytes(content)
        assert found.to_bytes() == content and len(content) < 1_000
        assert (found.digest, found.kind, found.state, found.label_error) == (DIGEST, kept.kind, kept.state, 0.125)
        assert found.verdict == kept.verdict and kept.why.startswith(found.why)
        assert type(found.change) is type(kept.change)

    def test_no_damage_gets_through(self) -> None:
        content = HEAD.to_bytes()
        for place in range(len(content)):
            with pytest.raises(StateError):
                Kept.from_bytes(content[:place])
            with pytest.raises(StateError):
                Kept.from_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with pytest.raises(StateError):
            Kept.from_bytes(content + b"\0")

    @pytest.mark.parametrize(
        "change",
        [
            Scale(np.float32([np.nan]), np.float32([0]), 40), Scale(np.float32([99]), np.float32([0]), 40),
            Scale(np.float32([1]), np.float32([0]), 0),
            Head(np.ones((1, 4), np.float32), np.zeros(1, np.float32), False, 9),
            Head(np.full((2, 4), np.inf, np.float32), np.zeros(2, np.float32), False, 9),
        ],
    )  # fmt: skip
    def test_values_that_cannot_be_are_refused(self, change: Scale | Head) -> None:
        kind = "statistics" if isinstance(change, Scale) else "last-layer"
        with pytest.raises(StateError, match="cannot be"):
            Kept.from_bytes(replace(SCALE, kind=kind, change=change).to_bytes())
