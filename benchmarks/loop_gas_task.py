"""A task for a sensor table: which of six gases a chemical sensor array smells, after its first months.

    EDGEHONE_DATA=... edgehone optimize benchmarks/loop_gas_task.py --max-drop 3pp

Data: the UCI Gas Sensor Array Drift set (Vergara et al. 2012, CC BY 4.0), 16 sensors with 8 values each, as
EDGEHONE_DATA/gas-drift/gas-drift-batches.npz with `x` (N, 128), `y` (N) from 1 and `batch` (N) in order of time. The
network is trained on a part of the first two batches, as it would be in the lab, and judged on the rest of them.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgehone import Task, Training
from edgehone.errors import InputError

GASES = ("ethanol", "ethylene", "ammonia", "acetaldehyde", "acetone", "toluene")
LAB = (1, 2)  # batches that there are when the network is made
SPLIT_SEED = 7
TEST, VALIDATION = 0.2, 0.2


def readings() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """x (N, 128) as the node is given it, y (N) from 0, batch (N).

    The 128 values have units from 1 to 100,000. One int8 input has one scale, so a logger brings them to one: signed
    logarithm, and mean and spread of the lab's batches. Four spreads are as far as it goes.
    """
    folder = os.environ.get("EDGEHONE_DATA")
    if folder is None:
        raise InputError(
            "EDGEHONE_DATA is not set", where="gas-drift", do="let it name the folder that holds gas-drift/"
        )
    with np.load(Path(folder) / "gas-drift" / "gas-drift-batches.npz") as file:
        raw, y, batch = file["x"].astype(np.float64), file["y"].astype(np.int64) - 1, file["batch"].astype(np.int64)
    log = np.sign(raw) * np.log1p(np.abs(raw))
    lab = log[np.isin(batch, LAB)]
    return np.clip((log - lab.mean(0)) / lab.std(0), -4, 4).astype(np.float32), y, batch


def network() -> nn.Module:
    """(N, 128) → logits (N, 6)."""
    return nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 6))


def make() -> Task:
    """The task; the same rows are held out every time."""
    x, y, batch = readings()
    rows = np.random.default_rng(SPLIT_SEED).permutation(np.flatnonzero(np.isin(batch, LAB)))
    first, second = round(TEST * len(rows)), round((TEST + VALIDATION) * len(rows))
    test, validation, train = rows[:first], rows[first:second], rows[second:]
    return Task(
        name="gas",
        network=network,
        train=(x[train], y[train]),
        validation=(x[validation], y[validation]),
        test=(x[test], y[test]),
        labels=GASES,
        training=Training(epochs=60, batch_size=32, learning_rate=0.05, weight_decay=1e-3),
    )


task = make()
