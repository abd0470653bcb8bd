"""The state of a training run on disk: arrays in one .npz, written whole or not at all, read without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from edgehone.record import CurvePoint, from_json


@dataclass(frozen=True)
class Progress:
    """How far a run has come: steps done, the curve so far, and seconds spent."""

    step: int
    curve: tuple[CurvePoint, ...]
    seconds: float


def save_checkpoint(path: Path, network: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write network, optimizer state and progress; the file appears complete or not at all."""
    arrays = {f"network/{key}": value.detach().cpu().numpy() for key, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                arrays[f"optimizer/{index}/{name}"] = torch.as_tensor(value).detach().cpu().numpy()
    told = {"step": progress.step, "seconds": progress.seconds, "curve": [asdict(point) for point in progress.curve]}
    arrays["progress"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    temporary = path.with_suffix(".partial")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, network: nn.Module, optimizer: Optimizer) -> Progress | None:
    """Restore what `save_checkpoint` wrote; None when there is no usable checkpoint for this network."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None
    state = network.state_dict()
    found = {name.removeprefix("network/"): value for name, value in arrays.items() if name.startswith("network/")}
    if found.keys() != state.keys() or any(found[key].shape != tuple(state[key].shape) for key in state):
        return None
    network.load_state_dict({key: torch.from_numpy(value) for key, value in found.items()})
    optimizer_state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in arrays.items():
        if name.startswith("optimizer/"):
            _, index, role = name.split("/")
            optimizer_state.setdefault(int(index), {})[role] = torch.from_numpy(value)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state})
    told = json.loads(arrays["progress"].tobytes())
    curve = tuple(from_json(CurvePoint, point) for point in told["curve"])
    return Progress(told["step"], curve, told["seconds"])
