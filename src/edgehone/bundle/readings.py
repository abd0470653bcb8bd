"""The readings that a bundle is built with: the validation data of the task that a study is about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgehone.bundle import said
from edgehone.errors import InputError
from edgehone.record import StudyRecord

MOST_ROWS = 60_000
MOST_BYTES = 1 << 30  # held at once
_BATCH = 256


def validation_readings(
    study: StudyRecord, source: str, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """Validation readings of a study's task, raw, (N, *input shape): at most MOST_ROWS, in MOST_BYTES.

    Args:
        study: the record of the study.
        source: of its task: a built-in name or "path/to/task.py[:name]".
        progress: called with (readings read, readings), first with 0 once the task is open.

    Raises:
        InputError: the task has other validation data than the study had.
        TaskError, DataError: the task or its data cannot be had.
    """
    from edgehone.data.load import load_task
    from edgehone.data.prepare import prepare

    seed = study.settings.get("seed")
    split = prepare(load_task(source), seed if isinstance(seed, int) else 0).validation
    if split.digest() != said.digests(study).get("validation"):
        raise InputError(
            "this task has other validation data than the study had", where=source,
            do="give the task that the study was made with, or --no-data",
        )  # fmt: skip
    most = max(1, min(MOST_ROWS, MOST_BYTES // (4 * int(np.prod(split.x_shape)))))
    split = split if len(split) <= most else split.sample(most, seed=0)
    told = progress or (lambda *_: None)
    told(0, len(split))
    readings, done = np.empty((len(split), *split.x_shape), np.float32), 0
    for x, _ in split.batches(_BATCH):
        readings[done : done + len(x)] = x.numpy()
        done += len(x)
        told(done, len(split))
    return readings
