"""A pump with eight sensors that tell in which of four states it is: the task of the scenarios in this folder.

edgehone optimize examples/simulate/pump.py --members 1 -o pump-family
edgehone simulate examples/simulate/gain-drift.toml --study pump-family --fake --nodes 20 --days 3 -o drift
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

import edgehone

STATES = ("fine", "cavitation", "worn bearing", "blocked")
# vibration x, y, z (mm/s), current (A), pressure in and out (bar), flow (10 l/min), temperature (10 °C)
MEANS = np.array([2.0, 2.1, 1.6, 8.0, 1.2, 4.5, 12.0, 5.5])
SPREADS = np.array([0.3, 0.3, 0.25, 0.5, 0.2, 0.4, 0.6, 0.4])
MOVES = np.array([  # of each state, in spreads
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [1.2, 0.8, 1.5, -0.8, -1.6, -0.8, -1.2, 0.3],
    [1.8, 1.6, 0.8, 0.8, 0.0, 0.0, -0.2, 1.4],
    [0.2, 0.3, 0.2, 1.0, 0.8, 1.2, -2.0, 0.9],
])  # fmt: skip


def draw(rows: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Made-up readings (rows, 8) and states; yours come from a logger."""
    rng = np.random.default_rng(seed)
    states = rng.integers(0, len(STATES), rows)
    readings = MEANS + SPREADS * (MOVES[states] + rng.normal(size=(rows, len(MEANS))))
    return readings.astype(np.float32), states


def network() -> nn.Module:
    """(N, 8) → scores (N, 4)."""
    return nn.Sequential(
        nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, len(STATES))
    )


task = edgehone.Task(
    name="pump",
    network=network,
    train=draw(2000, seed=0),
    validation=draw(1500, seed=1),
    test=draw(4000, seed=2),
    labels=STATES,
    training=edgehone.Training(epochs=6, batch_size=64, learning_rate=0.05),
    recovery=edgehone.Training(epochs=2, batch_size=64, learning_rate=0.05),
)
