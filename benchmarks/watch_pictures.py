"""How soon the watch notices that real pictures change, with the embedding of the file and without it.

    python benchmarks/watch_pictures.py STUDY      a study of `edgehone optimize fashion-mnist -o demo`
                                                   writes benchmarks/results/watch_pictures.json

The reference is the validation split, the stream the test split in a random order, changed from its first picture on.
The watch looks at answers of the member's .tflite file; an alarm is level 2 (1 : 100,000).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, rotate, shift

from edgehone.bundle.card import build_card
from edgehone.data.load import load_task
from edgehone.data.prepare import prepare
from edgehone.measure.machine import describe_machine
from edgehone.report.study_file import read
from edgehone_agent.fast import FastModel
from edgehone_agent.runtimes import RUNTIMES
from edgehone_agent.watch import Watcher
from edgehone_agent.wire.card import Card

RESULTS = Path(__file__).parent / "results"
STREAMS, ROWS, LEVEL = 20, 50, 2
Pictures = NDArray[np.float32]  # (N, 1, 28, 28)
Split = tuple[Pictures, NDArray[np.int64]]


def noisy(x: Pictures) -> Pictures:
    """With noise of a cheap sensor."""
    return np.clip(x + np.random.default_rng(1).normal(0, 10, x.shape), 0, 255).astype(np.float32)


CHANGES: dict[str, Callable[[Pictures], Pictures]] = {
    "none": lambda x: x,
    "90 % of the light": lambda x: 0.9 * x,
    "60 % of the light": lambda x: 0.6 * x,
    "noise, sd 10 of 255": noisy,
    "blur, 0.5 pixels": lambda x: gaussian_filter(x, (0, 0, 0.5, 0.5)),
    "blur, 0.8 pixels": lambda x: gaussian_filter(x, (0, 0, 0.8, 0.8)),
    "turned by 10 degrees": lambda x: rotate(x, 10, axes=(2, 3), reshape=False, order=1),
    "moved by 2 pixels": lambda x: shift(x, (0, 0, 2, 2)),
    "upside down": lambda x: np.ascontiguousarray(x[:, :, ::-1]),
}


def changed(name: str, x: Pictures, y: NDArray[np.int64]) -> Split:
    """The test split after a change; `MIXES` change which pictures come, the others the pictures."""
    rng = np.random.default_rng(2)
    if name in MIXES:
        kept = rng.random(len(y)) < np.where(np.isin(y, MIXES[name]), 0.5, 1.0)
        return x[kept], y[kept]
    return CHANGES[name](x).astype(np.float32), y


MIXES = {"half of two classes gone": (0, 6)}


def delays(card: Card, x: Pictures, answers: Pictures, embedding: Pictures | None) -> list[int | None]:
    """Pictures until the alarm in each stream, None where there was none."""
    found: list[int | None] = []
    for seed in range(STREAMS):
        order = np.random.default_rng(seed).permutation(len(x))
        watcher, alarm = Watcher(card, seed=seed), None
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            watcher.observe(x[rows], answers[rows], None if embedding is None else embedding[rows])
            if watcher.level >= LEVEL:
                alarm = start + len(rows)
                break
        found.append(alarm)
    return found


def summary(found: list[int | None]) -> dict[str, Any]:
    """Alarms of so many streams, and the median of those that came."""
    alarms = [delay for delay in found if delay is not None]
    return {"alarms": len(alarms), "median_pictures": float(np.median(alarms)) if alarms else None}


def watch_member(file: Path, validation: Split, test: Split) -> dict[str, Any]:
    """Every change as seen through one file."""
    model = FastModel(RUNTIMES.get("litert").load(file), tap=True)

    def ask(x: Pictures) -> tuple[Pictures, Pictures]:
        answers, embedding = model.predict(x), model.take_embedding()
        if embedding is None:
            sys.exit(f"{file} has no embedding")
        return answers, embedding.reshape(len(x), -1)

    x, _ = validation
    y, hidden = ask(x)
    about: Any = {"kind": "classification", "model_digest": "0" * 64}
    cards = {"with": build_card(x, y, hidden, **about), "without": build_card(x, y, None, **about)}
    result: dict[str, Any] = {"card_bytes": {name: len(card.to_bytes()) for name, card in cards.items()}, "changes": {}}
    for name in (*CHANGES, *MIXES):
        pictures, labels = changed(name, *test)
        answers, hidden = ask(pictures)
        told: dict[str, Any] = {"accuracy": float((answers.argmax(1) == labels).mean()), "pictures": len(pictures)}
        told["with embedding"] = summary(delays(cards["with"], pictures, answers, hidden))
        told["without"] = summary(delays(cards["without"], pictures, answers, None))
        result["changes"][name] = told
        print(f"  {name:26s} {100 * told['accuracy']:5.1f} %  {told['with embedding']}  {told['without']}")
    return result


def main(study: Path) -> None:
    """Measure every member of a study and write the result."""
    record = read(study)
    data = prepare(load_task(record.task["name"]), int(record.settings["seed"]))
    members = {}
    for member in record.members:
        if member.name == "original":
            continue
        print(member.name)
        file = study / "members" / member.name / "model.tflite"
        members[member.name] = watch_member(file, data.validation.arrays(), data.test.arrays())
    result = {
        "command": "python benchmarks/watch_pictures.py demo",
        "machine": describe_machine(),
        "reference_pictures": len(data.validation),
        "streams": STREAMS,
        "seeds": [0, STREAMS - 1],
        "members": members,
    }
    (RESULTS / "watch_pictures.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
