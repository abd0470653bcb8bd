"""A family from a CSV table: a small network that tells from four sensors whether a pump is about to fail.

python examples/sensor_table.py           writes pump.csv and pump-family/ (needs the extra `tables`)
"""

import csv
from pathlib import Path

import numpy as np
from torch import nn

import edgehone
from edgehone.data import Table


def write_table(path: Path, rows: int, seed: int) -> Path:
    """Made-up readings; yours come from a logger. The first line names the columns."""
    rng = np.random.default_rng(seed)
    readings = rng.normal(size=(rows, 4)).round(3)
    state = np.where(readings[:, 0] + readings[:, 1] ** 2 > 1, "failing", "fine")
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["vibration", "temperature", "current", "pressure", "state"])
        table.writerows([*reading, word] for reading, word in zip(readings, state, strict=True))
    return path


task = edgehone.Task(
    name="pump",
    network=nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)),
    train=Table(write_table(Path("pump.csv"), 800, seed=0), target="state"),
    test=Table(write_table(Path("pump-test.csv"), 400, seed=1), target="state"),
    training=edgehone.Training(epochs=5, batch_size=50, learning_rate=0.05),
)

if __name__ == "__main__":
    print(edgehone.optimize(task, max_drop="5pp", members=2).record.verdict)
