"""A world that changes and needs no new model: three years of the American Community Survey, month after month.

The task of `loop_employment_task.py` is trained on 2015 and compressed to int8. Then the people of 2016, 2017 and 2018
come in the order of the file, each year cut into twelve months, a quarter of each month on each of four nodes. In every
month 5 % of the answers, drawn at random, get their label; the nodes' watch and labels report; and the loop looks and
answers. Over a year errors stay what they were, so the right number of new models is none. The order of the file makes
it hard: it has the people of group quarters in one heap, at the end of 2017 and the beginning of 2018, where 24 % of
the answers are wrong instead of 18 %.

Three settings are compared: a tolerance of 0.05 everywhere with training because of corrections left out, the defaults
with that left out, and the defaults as they are. Where a round begins it is run to its end.

    python benchmarks/loop_employment.py            writes benchmarks/results/loop_employment.json
    python benchmarks/loop_employment.py --quick    one seed, one year, the first setting
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loop_employment_task import people, task
from loop_parts import AT_ONCE, Core, arguments, spread, validation_readings, write_result

import edgehone
from edgehone.data.prepare import prepare
from edgehone.loop.policy import LoopPolicy

SOURCE = str(Path(__file__).with_name("loop_employment_task.py"))
MEMBER, NODES, MONTHS, LABELLED = "int8", ("a", "b", "c", "d"), 12, 0.05
ALARM = 2
COMMON = {"approve": "auto", "rollout": AT_ONCE, "latency_ratio": 3.0}


@dataclass(frozen=True)
class Setting:
    """How much change nobody minds.

    Attributes:
        watch, labels: tolerances of the nodes; None for their defaults.
        policy: what differs from the policy's defaults.
    """

    watch: float | None
    labels: float | None
    policy: Mapping[str, Any]


SETTINGS = {
    "tolerance 0.05": Setting(0.05, 0.05, {"tolerance": 0.05, "corrections": 0}),
    "default tolerances": Setting(None, None, {"corrections": 0}),
    "default tolerances, train after 200 corrections": Setting(None, None, {}),
}


@dataclass(frozen=True)
class Month:
    """What a month brought: errors of the release, labels, nodes that alarm, and the loop's answers."""

    month: str
    rows: int
    errors: float
    labels: int
    watch_alarms: int
    risk_alarms: int
    channels: tuple[str, ...]
    decisions: tuple[dict[str, str], ...]
    round: str


def one_run(seed: int, setting: Setting, study: Path, years: Sequence[int], folder: Path) -> list[Month]:
    """All months in order."""
    x, y, year = people("analysis")
    policy = LoopPolicy("employment", SOURCE, str(study), (MEMBER,), **{**COMMON, **setting.policy})
    core = Core(
        folder, policy, validation_readings(prepare(task, seed)), nodes=NODES, seed=seed,
        watch_tolerance=setting.watch, label_tolerance=setting.labels,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    found = []
    for one in years:
        for number, rows in enumerate(np.array_split(np.flatnonzero(year == one), MONTHS), 1):
            wrong = labels = 0
            for node, mine in zip(NODES, np.array_split(rows, len(NODES)), strict=True):
                answers = core.see(node, x[mine])
                wrong += int((answers.argmax(1) != y[mine]).sum())
                drawn = np.flatnonzero(rng.random(len(mine)) < LABELLED)
                core.label(node, x[mine[drawn]], answers[drawn], y[mine[drawn]])
                labels += len(drawn)
            served = [core.serving(node) for node in NODES]
            alarmed = [one.watcher for one in served if one.watcher.level >= ALARM]
            risky = sum(one.labels.level >= ALARM for one in served)
            channels = sorted({_loudest(one.evidence()) for one in alarmed})
            turn = core.turn(30.0)
            found.append(Month(
                f"{one}-{number:02d}", len(rows), wrong / len(rows), labels, len(alarmed), risky, tuple(channels),
                turn.decisions, turn.told,
            ))  # fmt: skip
    core.close()
    return found


def _loudest(evidence: Mapping[str, Any]) -> str:
    """The channel that says most, in the variant that says more."""
    top = max((evidence["exact"], evidence["tolerant"]), key=lambda one: one["index"])
    return f"{top['channel']} {top['direction']}"


def summary(months: Sequence[Month]) -> dict[str, Any]:
    """Counts over a run."""
    answers = Counter(one["answer"] for month in months for one in month.decisions if "round" not in one["trigger"])
    years = sorted({month.month[:4] for month in months})
    mine = {year: [month for month in months if month.month.startswith(year)] for year in years}
    return {
        "errors": {year: float(np.average([m.errors for m in rows], weights=[m.rows for m in rows]))
                   for year, rows in mine.items()},
        "labels": sum(month.labels for month in months),
        "months_with_a_watch_alarm": sum(month.watch_alarms > 0 for month in months),
        "months_with_a_risk_alarm": sum(month.risk_alarms > 0 for month in months),
        "channels": sorted({name for month in months for name in month.channels}),
        "answers": dict(answers),
        "retrainings": sum(month.round.startswith("retrain,") for month in months),
        "new_models_released": sum(month.round.startswith("retrain, done") for month in months),
        "re_baselined": sum(month.round.startswith("re-baseline, done") for month in months),
    }  # fmt: skip


def main() -> None:
    """Run it."""
    asked = arguments(__doc__ or "")
    started = time.monotonic()
    years = (2016,) if asked.quick else (2016, 2017, 2018)
    chosen = dict(list(SETTINGS.items())[:1]) if asked.quick else SETTINGS
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    months: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in chosen}
    baseline = []
    for seed in range(1 if asked.quick else asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            study = edgehone.optimize(task, members=1, seed=seed, output=Path(folder) / "family", epochs=1.0)
            baseline.append(1 - study.record.members[0].metric["test"].value)
            for number, (name, setting) in enumerate(chosen.items()):
                found = one_run(seed, setting, study.folder, years, Path(folder) / str(number))
                runs[name].append(summary(found))
                months[name].append([asdict(month) for month in found if month.decisions or month.watch_alarms])
                print(f"seed {seed}, {name}: measured {baseline[-1]:.3f}, {runs[name][-1]}", flush=True)
    print(f"\n{'setting':<50} alarms: watch  risk   retrainings  released")
    for name, rows in runs.items():
        told = [[row[key] for row in rows] for key in (
            "months_with_a_watch_alarm", "months_with_a_risk_alarm", "retrainings", "new_models_released",
        )]  # fmt: skip
        print(f"{name:<50} " + "  ".join(f"{','.join(map(str, one)):>11}" for one in told))
    result = {
        "data": "employment_MA of the nannyml 0.13.1 wheel (American Community Survey, folktables)",
        "nodes": len(NODES), "months": MONTHS * len(years), "labelled": LABELLED, "measured_error": spread(baseline),
        "settings": {name: asdict(setting) for name, setting in chosen.items()}, "runs": runs, "months_told": months,
    }  # fmt: skip
    write_result("loop_employment", asked, __doc__ or "", result, started)


if __name__ == "__main__":
    main()
