"""Sensors that age: a static model against the loop on the UCI gas sensor array, batch after batch over 36 months.

The task of `loop_gas_task.py` is trained on batches 1 and 2 and compressed to int8. Then batches 3 to 9 come in the
order of time (7 and 10 are not in the data). In each of them

1. the file that is released answers every reading, and the first one, which never learns, does as well;
2. a person labels readings drawn at random: 200, and at most half of the batch;
3. the loop looks at the watch and at these labels once, and answers; a round trains, quantizes, judges, signs and
   rolls out;
4. the readings nobody labelled are answered again.

"arrival" is accuracy over the whole batch in step 1: what was learnt comes from batches before. "after" is that of step
4, beside "static" and "before" on the same readings. No label is used before it was drawn, none is judged by.

    EDGEHONE_DATA=... python benchmarks/loop_gas.py            writes benchmarks/results/loop_gas.json
    EDGEHONE_DATA=... python benchmarks/loop_gas.py --quick    one seed, two batches
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loop_gas_task import LAB, readings, task
from loop_parts import AT_ONCE, Core, arguments, spread, validation_readings, write_result

import edgehone
from edgehone.data.prepare import prepare
from edgehone.loop.policy import LoopPolicy
from edgehone_agent.model import open_model

SOURCE = str(Path(__file__).with_name("loop_gas_task.py"))
MEMBER = "int8"
POLICY = {
    "epochs": 30.0,
    "approve": "auto",
    "rollout": AT_ONCE,
    "latency_ratio": 3.0,  # a machine that works on other things, too
    "epsilon_pp": 5.0,  # 338 validation rows cannot show a loss below 1.1 pp
    "flip_limit": 0.1,
    "least_gain_pp": 0.0,  # a gain that is shown, however small: a few dozen labels are held out
}
"""What differs from the policy's defaults, and why."""
REFERENCE = {
    "static": {3: 0.788, 4: 0.584, 5: 0.822, 6: 0.509, 8: 0.259, 9: 0.574},
    "retrained on all labels of 1 to 6": {8: 0.840, 9: 0.704},
}
"""A float MLP of 64 units, scikit-learn, trained on batches 1 and 2."""


@dataclass(frozen=True)
class Batch:
    """What happened in a batch; accuracies are shares of right answers."""

    batch: int
    rows: int
    labels: int
    static: float
    arrival: float
    static_rest: float
    before_rest: float
    after_rest: float
    watch_level: int
    risk_level: int
    decisions: tuple[dict[str, str], ...]
    round: str
    version: int


def one_seed(seed: int, batches: Sequence[int], labels: int, epochs: float, folder: Path) -> list[Batch]:
    """All batches in order of time."""
    x, y, batch = readings()
    edgehone.optimize(task, members=1, seed=seed, output=folder / "family")
    policy = LoopPolicy("gas", SOURCE, str(folder / "family"), (MEMBER,), **{**POLICY, "epochs": epochs})
    core = Core(folder, policy, validation_readings(prepare(task, seed)), nodes=("array",), seed=seed)
    static = open_model(folder / "family" / "members" / MEMBER / "model.tflite")
    rng = np.random.default_rng(seed)
    found = []
    for number in batches:
        rows = np.flatnonzero(batch == number)
        fixed = static.predict(x[rows]).argmax(1) == y[rows]
        answers = core.see("array", x[rows])
        right = answers.argmax(1) == y[rows]
        drawn = np.sort(rng.choice(len(rows), min(labels, len(rows) // 2), replace=False))
        rest = np.setdiff1d(np.arange(len(rows)), drawn)
        core.label("array", x[rows[drawn]], answers[drawn], y[rows[drawn]])
        served = core.serving("array")
        levels = served.watcher.level, served.labels.level
        turn = core.turn()
        after = core.answers(x[rows[rest]]).argmax(1) == y[rows[rest]]
        found.append(Batch(
            number, len(rows), len(drawn), float(fixed.mean()), float(right.mean()), float(fixed[rest].mean()),
            float(right[rest].mean()), float(after.mean()), *levels, turn.decisions,
            turn.told, core.serving("array").version,
        ))  # fmt: skip
        show(seed, found[-1])
    static.close()
    core.close()
    return found


def show(seed: int, row: Batch) -> None:
    """One line of the table."""
    answers = ", ".join(one["answer"] for one in row.decisions)
    print(
        f"seed {seed}  batch {row.batch}  {row.labels:3d} of {row.rows:4d} labelled  static {row.static:.3f}  "
        f"arrival {row.arrival:.3f}  | rest: static {row.static_rest:.3f}  before {row.before_rest:.3f}  "
        f"after {row.after_rest:.3f}  version {row.version}  [{answers}] {row.round[:100]}",
        flush=True,
    )


def summary(runs: Sequence[Sequence[Batch]]) -> list[dict[str, Any]]:
    """Per batch: median, lowest and highest of the seeds."""
    told = []
    for rows in zip(*runs, strict=True):
        figures = {
            name: spread([getattr(row, name) for row in rows])
            for name in ("static", "arrival", "static_rest", "before_rest", "after_rest")
        }
        answers = sorted(
            {one["answer"] for row in rows for one in row.decisions if not one["trigger"].startswith("round ")}
        )
        told.append({
            "batch": rows[0].batch, "rows": rows[0].rows, "labels": rows[0].labels, **figures,
            "retrained": sum(row.round.startswith("retrain, done") for row in rows),
            "refused": sum("refused" in row.round for row in rows), "answers": answers,
        })  # fmt: skip
    return told


def main() -> None:
    """Run it."""
    asked = arguments(__doc__ or "", labels={"type": int, "default": 200, "help": "for each batch, at most"})
    started = time.monotonic()
    _, _, batch = readings()
    batches = [int(one) for one in np.unique(batch) if one not in LAB]
    if asked.quick:
        batches = batches[:2]
    runs = []
    for seed in range(1 if asked.quick else asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(one_seed(seed, batches, asked.labels, 5.0 if asked.quick else POLICY["epochs"], Path(folder)))
    table = summary(runs)
    print(f"\n{'batch':>5} {'rows':>5} {'labels':>6}   static  arrival | rest: static  before   after")
    for row in table:
        shares = [row[name]["median"] for name in ("static", "arrival", "static_rest", "before_rest", "after_rest")]
        print(f"{row['batch']:5d} {row['rows']:5d} {row['labels']:6d}   {shares[0]:.3f}    {shares[1]:.3f} |       "
              f"{shares[2]:.3f}   {shares[3]:.3f}   {shares[4]:.3f}")  # fmt: skip
    result = {
        "data": "UCI Gas Sensor Array Drift, batches 1-6, 8, 9 (CC BY 4.0)",
        "labels_per_batch": asked.labels, "policy": POLICY, "reference": REFERENCE, "batches": table,
        "runs": [[asdict(row) for row in rows] for rows in runs],
    }  # fmt: skip
    write_result("loop_gas", asked, __doc__ or "", result, started)


if __name__ == "__main__":
    main()
