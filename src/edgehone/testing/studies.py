"""Folders as `edgehone optimize` leaves them, in a second and without training: real int8 files, made-up figures.

study = write_study(tmp_path / "family")                       members "int8" and "w30-int8" that answer differently
study = write_study(folder, shape=(6,), kind="regression")     a table in, one number out
x = readings((1, 8, 8), 200)                                   what its networks were calibrated with
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import Twin
from edgehone.record import FileRecord, LatencyRecord, MemberRecord, StudyRecord, to_json
from edgehone.testing.records import TaskKind, example_record
from edgehone_agent.runtimes import RUNTIMES

CLASSES = 4
_RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}


def readings(shape: tuple[int, ...], count: int, seed: int = 1) -> NDArray[np.float32]:
    """Raw readings (count, *shape) from 0 to 16, like the pixels of a small picture."""
    return np.random.default_rng(seed).uniform(0, 16, (count, *shape)).astype(np.float32)


def network(shape: tuple[int, ...], kind: TaskKind, seed: int) -> nn.Module:
    """An untrained network of a convolution or a layer, and a head; an anomaly network gives its reading back."""
    torch.manual_seed(seed)
    if len(shape) == 1:
        outputs = {"classification": CLASSES, "regression": 1, "anomaly": shape[0]}[kind]
        return nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, outputs)).eval()
    conv = nn.Conv2d(shape[0], 8, 3, padding=1)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(conv, nn.ReLU(), pooled, nn.Linear(8, 1 if kind == "regression" else CLASSES)).eval()


def write_study(
    folder: Path, *, shape: tuple[int, ...] = (1, 8, 8), kind: TaskKind = "classification", task: str = "digits-like",
    digest: Mapping[str, str] | None = None, embedding: bool = False, seed: int = 0,
) -> StudyRecord:  # fmt: skip
    """Write study.json and the files of two members, and return the record.

    Args:
        folder: of the study.
        shape: of one reading, (C, H, W) or (F).
        kind, task: of the task.
        digest: split → sha256 of its data.
        embedding: whether the files have a second output.
        seed: of the networks.
    """
    record = example_record(2, CLASSES, kind=kind, seed=seed)
    with torch.random.fork_rng(devices=[]):
        members = tuple(
            replace(
                member,
                files=_files(folder, member.name, network(shape, kind, seed + index), shape, embedding),
                latency=tuple(_located(entry, member.name) for entry in member.latency),
            )
            for index, member in enumerate(record.members)
        )
    described = {
        "name": task, "kind": kind, "metric": record.task["metric"], "labels": record.task["labels"],
        "input_shape": [1, *shape], "digest": dict(digest or {"train": "1" * 64, "validation": "2" * 64}),
    }  # fmt: skip
    record = replace(record, task=described, members=members)
    write_record(folder, record)
    return record


def write_record(folder: Path, record: StudyRecord) -> None:
    """Write study.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(to_json(record)))


def only(record: StudyRecord, name: str, **changes: Any) -> StudyRecord:
    """The record with one member changed."""
    changed = tuple(replace(member, **changes) if member.name == name else member for member in record.members)
    return replace(record, members=changed)


def member_of(record: StudyRecord, name: str) -> MemberRecord:
    """One member of a record."""
    return next(member for member in record.members if member.name == name)


def _files(folder: Path, name: str, net: nn.Module, shape: tuple[int, ...], embedding: bool) -> tuple[FileRecord, ...]:
    x = torch.from_numpy(readings(shape, 64, seed=0))
    twin = Twin(deploy(trace(net, x)))
    twin.calibrate([x])
    quantized = twin.to_quantized()
    place = folder / "members" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "README.md").write_text(f"# {name}\n\nA member made for tests.\n")
    found = []
    for form in _RUNTIMES:
        content = EXPORTERS.get(form).export(quantized, embedding=embedding)
        path = place / f"model{EXPORTERS.get(form).suffix}"
        path.write_bytes(content)
        found.append(
            FileRecord(
                str(path.relative_to(folder)), form, len(content), len(content), hashlib.sha256(content).hexdigest()
            )
        )
    return tuple(found)


def _located(entry: LatencyRecord, name: str) -> LatencyRecord:
    suffix = RUNTIMES.get(entry.runtime).suffixes[0]
    return replace(entry, file=f"members/{name}/model{suffix}")
