"""Each gate by itself, and the bounds that its bets promise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edgehone.errors import InputError
from edgehone.fleet import gates
from edgehone.fleet.gates import Limits, Step, Verdict
from edgehone.fleet.observed import NodeView, Watched
from edgehone.fleet.risk_test import LOG_PROOF, Count, compare, compare_paired, log_above
from edgehone_agent.wire.uplink import Failed, Labelled, ShadowStatus, TaskStatus

LIMITS = Limits(flip_rate=0.02)
BEFORE = Watched("a", 0.0, version=1, heard=True, latency_us=1000.0, memory_bytes=50 << 20)


def view(online: bool = True, **status: object) -> NodeView:
    values = {"digest": "2" * 64, "version": 2, "ready": True, **status}
    return NodeView("a", "digits", online, 10.0, TaskStatus(**values))  # type: ignore[arg-type]


def shadow(rows: int, disagreements: int, labelled: Labelled | None = None, **status: object) -> NodeView:
    beside = ShadowStatus("2" * 64, 2, rows, disagreements, 1000.0, None, labelled)
    return view(version=1, digest="1" * 64, shadow=beside, **status)


def step(*views: NodeView, others: tuple[NodeView, ...] = (), **more: object) -> Step:
    watched = [(BEFORE, one) for one in views]
    return Step(2, views[0].status.shadow is not None, watched, [(BEFORE, one) for one in others], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"latency_us": 1400.0}, "pass"),
        ({"latency_us": 1600.0}, "fail"),
        ({"latency_us": None}, "no say"),
    ],
)
def test_latency_is_compared_on_each_node(status: dict[str, object], says: str) -> None:
    assert gates.latency(step(view(**status)), LIMITS).says == says


def test_a_rise_that_is_noise_anywhere_is_none_and_the_manifests_bound_holds() -> None:
    fast = [(replace(BEFORE, latency_us=20.0), view(latency_us=45.0))]
    assert gates.latency(Step(2, False, fast), LIMITS).says == "pass"
    assert gates.latency(Step(2, False, fast), replace(LIMITS, latency_us=40.0)).says == "fail"


def test_one_slow_node_among_many_fails_nothing() -> None:
    views = [view(latency_us=1000.0), view(latency_us=1100.0), view(latency_us=9000.0)]
    assert gates.latency(step(*views), LIMITS).figures["ratio"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (view(), "pass"),
        (view(crashes=1), "fail"),
        (view(ready=False), "fail"),
        (view(version=1, failed=(Failed("2" * 64, 2, "another answer"),)), "fail"),
        (view(version=1), "no say"),
    ],
)
def test_crashes_and_failures_count_from_the_step_on(found: NodeView, says: str) -> None:
    assert gates.crashes(step(found), LIMITS).says == says


def test_a_few_failures_are_allowed_where_many_nodes_are_watched() -> None:
    bad = view(version=1, failed=(Failed("2" * 64, 2, "why"),))
    assert gates.crashes(step(*[view()] * 39, bad), LIMITS).says == "pass"
    assert gates.crashes(step(*[view()] * 37, bad, bad, bad), LIMITS).says == "fail"


def test_counts_of_a_process_that_began_anew_are_new() -> None:
    before = replace(BEFORE, crashes=5)
    assert gates.crashes(Step(2, False, [(before, view(crashes=5))]), LIMITS).says == "pass"
    assert gates.crashes(Step(2, False, [(before, view(crashes=1))]), LIMITS).says == "fail"


def test_drift_counts_only_where_the_others_have_none() -> None:
    alarmed, quiet = view(watch_level=2), view(watch_level=0)
    old, old_alarmed = view(version=1), view(version=1, watch_level=2)
    assert gates.drift(step(alarmed, others=(old, old)), LIMITS).says == "fail"
    assert gates.drift(step(alarmed, others=(old_alarmed, old_alarmed)), LIMITS).says == "pass"
    assert gates.drift(step(quiet, others=(old,)), LIMITS).says == "pass"
    assert gates.drift(step(alarmed), LIMITS).says == "no say"
    known = replace(BEFORE, watch_level=2)
    assert gates.drift(Step(2, False, [(known, alarmed)], [(BEFORE, old)]), LIMITS).says == "pass"


def test_silence_counts_when_the_patience_is_over_and_others_are_heard() -> None:
    gone, here = view(online=False), view(version=1)
    assert gates.silence(step(gone, others=(here,)), LIMITS).says == "pass"
    assert gates.silence(step(gone, others=(here,), overdue=True), LIMITS).says == "fail"
    assert gates.silence(step(gone, others=(view(online=False),), overdue=True), LIMITS).says == "pass"
    assert gates.silence(step(gone, overdue=True), LIMITS).says == "no say"
    assert gates.silence(step(gone, overdue=True, bystanders=True), LIMITS).says == "fail"


NO_SAY = Verdict("risk", "no say")


def test_agreement_waits_for_rows_then_passes_or_fails() -> None:
    assert gates.agreement(step(shadow(50, 0), rows=200), LIMITS, NO_SAY).says == "wait"
    assert gates.agreement(step(shadow(50, 0), rows=200, rows_overdue=True), LIMITS, NO_SAY).says == "no say"
    assert gates.agreement(step(shadow(200, 4), rows=200), LIMITS, NO_SAY).says == "pass"
    assert gates.agreement(step(shadow(200, 30), rows=200), LIMITS, NO_SAY).says == "fail"
    doubtful = step(shadow(200, 8), rows=200)
    assert gates.agreement(doubtful, LIMITS, NO_SAY).says == "wait"
    assert gates.agreement(replace(doubtful, rows_overdue=True), LIMITS, NO_SAY).says == "fail"
    assert gates.agreement(step(shadow(200, 30), rows=200), LIMITS, Verdict("risk", "pass")).says == "pass"
    assert gates.agreement(step(shadow(200, 150), rows=200), Limits(), NO_SAY).says == "no say"


def test_risk_of_a_shadow_is_compared_on_the_same_rows() -> None:
    def says(rows: int, wrong: int, champion: int) -> str:
        return gates.risk(step(shadow(rows, 0, Labelled(rows, wrong, champion))), LIMITS).says

    assert says(10, 1, 1) == "no say"
    assert says(2000, 100, 300) == "pass"
    assert says(2000, 300, 100) == "fail"


def test_risk_of_a_canary_is_compared_with_untouched_nodes_meanwhile() -> None:
    good, bad = view(labelled=Labelled(1500, 75)), view(labelled=Labelled(1500, 270))
    others = (view(version=1, labelled=Labelled(3000, 270)),)
    assert gates.risk(step(good, others=others), LIMITS).says == "pass"
    assert gates.risk(step(bad, others=others), LIMITS).says == "fail"
    assert gates.risk(step(bad), LIMITS).says == "no say"
    before = replace(BEFORE, rows=3000, wrong=270)
    assert gates.risk(Step(2, False, [(before, bad)]), LIMITS).says == "fail"


def test_limits_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="out of range"):
        Limits(failed_share=1.0)
    assert Limits.from_json({**LIMITS.to_json(), "newer": 1}) == LIMITS


def ever(logs: list[float]) -> bool:
    return max(logs) >= LOG_PROOF


def test_nobody_at_the_limit_is_condemned_more_often_than_promised() -> None:
    """200 streams of 1,000 rows exactly at the limit, looked at after every 50: the promise is 1 in 20."""
    rng = np.random.default_rng(1)
    looks, condemned, promoted, agreed = range(50, 1001, 50), 0, 0, 0
    for _ in range(200):
        new, old = rng.random(1000) < 0.12, rng.random(1000) < 0.10
        seen = [(Count(n, int(new[:n].sum())), Count(n, int(old[:n].sum()))) for n in looks]
        both = [compare(*pair, 0.02) for pair in seen]
        condemned += ever([one.worse for one in both])
        promoted += ever([one.no_worse for one in both])
        agreed += ever([log_above(pair[0], 0.12) for pair in seen])
    assert max(condemned, promoted, agreed) <= 200 / 20


def test_a_paired_comparison_never_claims_more_than_the_rows_allow() -> None:
    """The totals' evidence is at most that of the rows themselves, whichever rows both erred on."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        both = rng.random(300) < 0.05
        new, old = both | (rng.random(300) < 0.05), both | (rng.random(300) < 0.1)
        found = compare_paired(300, int(new.sum()), int(old.sum()), 0.02)
        some = compare_paired(300, int(new.sum()), int(old.sum()), 0.02, int(both.sum()) // 2)
        every = compare_paired(300, int(new.sum()), int(old.sum()), 0.02, int((new & old).sum()))
        stakes = np.array([0.05, 0.1, 0.2, 0.4, 0.8, 0.95])
        differences = new.astype(float) - old
        good = np.log1p(np.outer(stakes / 0.98, 0.02 - differences)).sum(1)
        bad = np.log1p(np.outer(stakes / 1.02, differences - 0.02)).sum(1)
        assert found.no_worse <= some.no_worse <= every.no_worse and found.worse <= some.worse <= every.worse
        assert every.no_worse == pytest.approx(np.logaddexp.reduce(good) - math.log(len(stakes)))
        assert every.worse == pytest.approx(np.logaddexp.reduce(bad) - math.log(len(stakes)))


def test_the_rows_that_both_had_wrong_save_labels_and_the_error_stays_below_one_in_twenty() -> None:
    rng, looks = np.random.default_rng(3), range(50, 2001, 50)

    def says(new_risk: float, runs: int) -> tuple[list[float], list[float]]:
        """After how many labels each of the two says "no worse"; infinity for never."""
        totals: list[float] = []
        sharp: list[float] = []
        for _ in range(runs):
            kind = rng.choice(4, 2000, p=[0.08, new_risk - 0.08, 0.02, 0.9 - new_risk + 0.08])
            both, new, old = np.cumsum(kind == 0), np.cumsum(kind <= 1), np.cumsum((kind == 0) | (kind == 2))
            for said, known in ((totals, 0), (sharp, 1)):
                found = (n for n in looks if _no_worse(n, new[n - 1], old[n - 1], known * both[n - 1]) >= LOG_PROOF)
                said.append(next(found, math.inf))
        return totals, sharp

    totals, sharp = says(0.10, 30)  # as good as the old one
    assert 2 * np.median(sharp) < np.median(totals)
    _, sharp = says(0.12, 120)  # worse by the margin: each "no worse" is an error
    assert np.isfinite(sharp).sum() <= 120 / 20


def _no_worse(rows: int, new: int, old: int, both: int) -> float:
    return compare_paired(rows, int(new), int(old), 0.02, int(both)).no_worse


def test_absurd_counts_of_a_node_stay_numbers() -> None:
    for both in (0, 5, 50):
        found = compare_paired(10, 10, 5, 0.02, both)
        assert math.isfinite(found.no_worse) and found.no_worse < 0 < found.worse


def test_evidence_grows_with_a_real_difference() -> None:
    few, many = (compare(Count(n, n // 20), Count(n, n // 5), 0.02).no_worse for n in (100, 1000))
    assert few < many and many > LOG_PROOF
    few, many = (compare(Count(n, n // 5), Count(n, n // 20), 0.02).worse for n in (100, 1000))
    assert few < many and many > LOG_PROOF
