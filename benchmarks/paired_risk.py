"""How many labels the risk gate needs to say that a shadow is no worse, with and without the rows that both had wrong.

    python benchmarks/paired_risk.py --output benchmarks/results/paired_risk.json

Two models that answer the same labelled rows are drawn with known risks and a known share of rows that both have wrong.
The gate looks after every `EVERY` labels, as it does at each heartbeat, until it says something or the labels end. The
same rows are judged twice: with totals alone, and with the rows that both had wrong. At the border (`border`: worse by
the margin, exactly) its share of "no worse" is its error, which is promised to be at most 1 in 20.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgehone.fleet.risk_test import LOG_PROOF, compare_paired

MARGIN = 0.02
EVERY = 20
WORLDS = {  # risk of the new model, of the old one, share of rows that both have wrong
    "as good, 10 % wrong": (0.10, 0.10, 0.08),
    "as good, 30 % wrong": (0.30, 0.30, 0.24),
    "better, 10 % wrong": (0.07, 0.10, 0.06),
    "worse, 10 % wrong": (0.17, 0.10, 0.08),
    "border, 10 % wrong": (0.12, 0.10, 0.08),
    "border, 30 % wrong": (0.32, 0.30, 0.24),
    "border, never both": (0.12, 0.10, 0.0),
}


def first_word(new: np.ndarray, old: np.ndarray, both: np.ndarray, *, sharp: bool) -> tuple[str, int]:
    """What the gate says first, and after how many labels."""
    for rows in range(EVERY, len(new) + 1, EVERY):
        at = rows - 1
        found = compare_paired(rows, int(new[at]), int(old[at]), MARGIN, int(both[at]) if sharp else 0)
        if found.worse >= LOG_PROOF:
            return "worse", rows
        if found.no_worse >= LOG_PROOF:
            return "no worse", rows
    return "nothing", len(new)


def measure(world: tuple[float, float, float], runs: int, rows: int, seed: int) -> dict[str, Any]:
    """Both gates on the same draws."""
    new_risk, old_risk, both_share = world
    shares = [both_share, new_risk - both_share, old_risk - both_share]
    rng = np.random.default_rng(seed)
    said: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
    for _ in range(runs):
        kind = rng.choice(4, rows, p=[*shares, 1 - sum(shares)])
        both, new, old = np.cumsum(kind == 0), np.cumsum(kind <= 1), np.cumsum((kind == 0) | (kind == 2))
        for sharp in said:
            said[sharp].append(first_word(new, old, both, sharp=sharp))
    return {
        name: {
            "no_worse": sum(word == "no worse" for word, _ in said[sharp]) / runs,
            "worse": sum(word == "worse" for word, _ in said[sharp]) / runs,
            "labels_p50": float(np.median([count for _, count in said[sharp]])),
        }
        for name, sharp in (("totals", False), ("both", True))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--labels", type=int, default=6000, help="after which there are no more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    worlds = {name: measure(world, args.runs, args.labels, args.seed) for name, world in WORLDS.items()}
    for name, found in worlds.items():
        print(name, json.dumps(found), flush=True)
    if args.output is not None:
        said = {"command": " ".join(["python", *sys.argv]), "margin": MARGIN, "runs": args.runs, "labels": args.labels}
        args.output.write_text(json.dumps({**said, "worlds": worlds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
