"""Answers of a teacher, kept: a family is taught with the same batches, so the teacher is asked once.

An epoch's order and augmentation depend on (seed, epoch) alone (see `loop.py`); so do the teacher's answers. They are
written when an epoch is complete, one file per epoch, and read back by every later run over the same batches. A run
that takes them from here gives the same network as one that asked.

    answers = Answers(folder, key)          the key names all that the answers depend on
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_VALUES = 1024  # of one answer; larger ones (pictures that are reconstructed) are not worth their room


class Answers:
    """A folder of answers.

    Args:
        folder: where they are kept; created when needed.
        key: what answers depend on and all runs over one task share: teacher, data, augmentation. Plain values.
            Answers under another key are never seen.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True, default=str)
        self._folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._epoch: tuple[str, int, int] | None = None
        self._known: Tensor | None = None
        self._new: list[Tensor] = []

    def get(self, run: str, seed: int, epoch: int, step: int, steps: int, ask: Callable[[], Tensor]) -> Tensor:
        """The answer to one batch.

        Args:
            run: what else the batches and the arithmetic depend on, as a file name.
            seed, epoch: of the batches.
            step: of the epoch, from 0; an epoch is kept when all its steps were asked for in order.
            steps: of the epoch.
            ask: asks the teacher.
        """
        if self._epoch != (run, seed, epoch):
            self._epoch, self._new = (run, seed, epoch), []
            self._known = self._read(self._path(run, seed, epoch), steps)
        if self._known is not None:
            return self._known[step]
        answer = ask().float().cpu()
        if answer[0].numel() <= MOST_VALUES and len(self._new) == step:
            self._new.append(answer)
            if len(self._new) == steps:
                self._write(self._path(run, seed, epoch))
        return answer

    def _path(self, run: str, seed: int, epoch: int) -> Path:
        return self._folder / f"{run}-{seed}-{epoch}.npy"

    def _read(self, path: Path, steps: int) -> Tensor | None:
        try:
            kept = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or cut short by a full disk: it is asked for again
            return None
        return torch.from_numpy(kept) if len(kept) == steps and kept.dtype == np.float32 else None

    def _write(self, path: Path) -> None:
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.save(file, torch.stack(self._new).numpy(), allow_pickle=False)
            temporary.replace(path)
        except OSError:  # a full disk costs time, nothing else
            with contextlib.suppress(OSError):
                temporary.unlink()
        self._new = []
