"""Where figures were taken: the machine, its load, and the versions of what ran. Nothing that identifies a person."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FLAGS = (
    "sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip
LIBRARIES = ("edgehone-agent", "ai-edge-litert", "onnxruntime", "numpy")


def describe_machine(libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """A JSON object: cpu, cores, flags that matter for inference, memory_bytes, os, python, versions, load."""
    cpu = _cpu(Path("/proc/cpuinfo"))
    return {
        "cpu": cpu["model"],
        "flags": cpu["flags"],
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "machine": platform.machine(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions(libraries),
        "load_1min": os.getloadavg()[0],
    }


def place(machine: dict[str, Any]) -> str:
    """One line for a measurement's `place`: "Cortex-A72, 4 cores"."""
    cores = machine["cores"]
    return f"{machine['cpu']}, {cores} core{'s' if cores != 1 else ''}"


def _cpu(file: Path) -> dict[str, Any]:
    """Model name and known flags from /proc/cpuinfo; x86 and Arm use different keys."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    present = set((fields.get("flags") or fields.get("features") or "").split())
    model = fields.get("model name") or fields.get("hardware") or platform.processor() or platform.machine()
    return {"model": model, "flags": [flag for flag in _FLAGS if flag in present]}


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
