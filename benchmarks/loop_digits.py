"""Learn a new view and keep the old one: digits, 300 new labels of pictures that a camera turned by 90 degrees.

1,797 pictures come with scikit-learn. In each seed 300 of them are the field's, turned; 360 are the test; 240 validate;
the rest trains the small convolutional network of the built-in task, which is then compressed: a member of full width
and a narrower one, both int8. The 300 labels become a dataset version as the loop makes it (`loop.dataset`: 0.3 of them
are held out for the gate), and `search.refresh` teaches the family, with 100 or with all old pictures replayed. Every
figure is of the int8 files, on the 360 test pictures, upright ("old") and turned ("new").

    python benchmarks/loop_digits.py            writes benchmarks/results/loop_digits.json
    python benchmarks/loop_digits.py --quick    one seed, 100 replayed, full width
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from loop_parts import arguments, spread, write_result
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import edgehone
from edgehone.data.builtin.digits import network
from edgehone.data.preprocess import Scale
from edgehone.loop import gate
from edgehone.loop.dataset import compose, load
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.trust import Sampled, Vote, settle
from edgehone.record import to_json
from edgehone.records.blobs import open_blobs
from edgehone.search.refresh import FieldData, Refreshed, RefreshSettings, refresh
from edgehone.task import Task, Training
from edgehone_agent.model import open_model

LABELS, TEST, VALIDATION = 300, 360, 240
NAMES = tuple("0123456789")
REPLAYS = (100, 2000)  # the latter is all there are
SETTINGS = {"epochs": 60.0, "rate": 0.3, "replay": 1 / 3}
POLICY = {"epsilon_pp": 3.0, "flip_limit": 0.1, "latency_ratio": 3.0}
Pictures = NDArray[np.float32]


def turned(x: Pictures) -> Pictures:
    """By 90 degrees."""
    return np.ascontiguousarray(np.rot90(x, axes=(2, 3)))


def splits(seed: int) -> tuple[Task, tuple[Pictures, NDArray[np.int64]]]:
    """The task without the field's pictures, and those, as they are before they are turned."""
    pictures, ids = load_digits(return_X_y=True)
    x, y = pictures.reshape(-1, 1, 8, 8).astype(np.float32), ids.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(y))
    field, test, validation, train = np.split(order, np.cumsum([LABELS, TEST, VALIDATION]))
    task = Task(
        name="digits", network=network, train=(x[train], y[train]), validation=(x[validation], y[validation]),
        test=(x[test], y[test]), preprocess=Scale(1 / 16), labels=NAMES,
        training=Training(epochs=20, batch_size=64, learning_rate=0.1),
    )  # fmt: skip
    return task, (x[field], y[field])


def labelled(x: Pictures, y: NDArray[np.int64], file: Path, policy: LoopPolicy) -> FieldData:
    """A dataset version of what people said, as a round makes and reads it."""
    blobs, said = open_blobs("memory://"), []
    with open_model(file) as model:
        answered = model.predict(x).argmax(1)
    for row in range(len(y)):
        content = io.BytesIO()
        np.save(content, x[row])
        sample = Sampled(
            "camera", f"p{row}", "0" * 64, blobs.put(content.getvalue()), int(answered[row]), "uniform", 0.1
        )
        said.append((sample, [Vote("camera", f"e{row}", "", "correct", int(y[row]))]))
    manifest = compose(policy, NAMES, settle(said, min_trust=policy.min_trust))
    return load(blobs, blobs.put(manifest.to_bytes()))


def accuracies(study: Path, member: str, task: Task) -> dict[str, float]:
    """Of a member's file on the test pictures, upright and turned."""
    x, y = task.test
    with open_model(study / "members" / member / "model.tflite") as model:
        return {
            name: float((model.predict(seen).argmax(1) == y).mean()) for name, seen in (("old", x), ("new", turned(x)))
        }


def one_seed(seed: int, replays: Sequence[int], members: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each member and each number of replayed pictures."""
    task, (x, y) = splits(seed)
    study = edgehone.optimize(task, members=members, seed=seed, output=folder / "family")
    names = [member.name for member in study.members]
    policy = LoopPolicy("digits", "digits", str(study.folder), tuple(names), **POLICY)
    data = labelled(turned(x), y, study.members[0].path(), policy)
    rows = []
    for replay in replays:
        settings = RefreshSettings(**SETTINGS, least_replay=replay, seed=seed)
        found = refresh(study.folder, task, data, folder / f"replay-{replay}", settings=settings)
        verdicts = gate.judge([to_json(member) for member in found.members], policy)
        rows += [
            _row(seed, replay, member, verdict, accuracies(study.folder, member.member, task),
                 accuracies(found.folder, member.member, task), len(data.y))
            for member, verdict in zip(found.members, verdicts, strict=True)
        ]  # fmt: skip
    return rows


def _row(
    seed: int, replay: int, member: Refreshed, verdict: gate.Verdict, before: dict[str, float],
    after: dict[str, float], learnt: int,
) -> dict[str, Any]:  # fmt: skip
    row = {
        "seed": seed, "replay": replay, "member": member.member, "learnt": learnt, "before": before, "after": after,
        "old_drop_pp": 100 * (before["old"] - after["old"]), "new_gain_pp": 100 * (after["new"] - before["new"]),
        "size_ratio": member.size, "gate": verdict.to_json(),
    }  # fmt: skip
    print(
        f"seed {seed}  replay {replay:4d}  {member.member:9s} old {before['old']:.3f} to {after['old']:.3f}  "
        f"new {before['new']:.3f} to {after['new']:.3f}  {'passes' if verdict.ok else verdict.why[:90]}",
        flush=True,
    )
    return row


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds: full width is "int8", the narrower member has another name in each."""
    told = []
    for replay in sorted({row["replay"] for row in rows}):
        for kind in ("full width", "narrower"):
            mine = [r for r in rows if r["replay"] == replay and (r["member"] == "int8") == (kind == "full width")]
            if mine:
                told.append({
                    "replay": replay, "member": kind,
                    **{f"{name} {when}": spread([r[when][name] for r in mine])
                       for name in ("old", "new") for when in ("before", "after")},
                    "old_drop_pp": spread([r["old_drop_pp"] for r in mine]),
                    "new_gain_pp": spread([r["new_gain_pp"] for r in mine]),
                    "pass_the_gate": sum(r["gate"]["ok"] for r in mine),
                })  # fmt: skip
    return told


def main() -> None:
    """Run it."""
    asked = arguments(__doc__ or "")
    started, rows = time.monotonic(), []
    replays, members = (REPLAYS[:1], 1) if asked.quick else (REPLAYS, 2)
    for seed in range(1 if asked.quick else asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows += one_seed(seed, replays, members, Path(folder))
    table = summary(rows)
    print(f"\nmedians\n{'replay':>6}  {'member':<10}  old: before  after   drop (worst)   new: before  after   gate")
    for row in table:
        drop = row["old_drop_pp"]
        print(
            f"{row['replay']:6d}  {row['member']:<10}       {row['old before']['median']:.3f}  "
            f"{row['old after']['median']:.3f}  {drop['median']:5.2f} ({drop['high']:5.2f})         "
            f"{row['new before']['median']:.3f}  {row['new after']['median']:.3f}   {row['pass_the_gate']}/{drop['n']}"
        )
    result = {
        "data": "digits of scikit-learn, turned by 90 degrees", "labels": LABELS, "settings": SETTINGS,
        "policy": POLICY, "refresh_defaults": asdict(RefreshSettings()), "table": table, "rows": rows,
    }  # fmt: skip
    write_result("loop_digits", asked, __doc__ or "", result, started)


if __name__ == "__main__":
    main()
