"""What this machine reports about itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edgehone.devices.profile import Hardware, Quantity

_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_MAX_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
_CPU_INFO = Path("/proc/cpuinfo")


def detect_hardware() -> Hardware:
    """Cores, clock, memory and disk of this machine, as the operating system states them at this moment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _first_line(_CGROUP_MEMORY)
    memory = min(physical, int(limit)) if limit.isdigit() else physical
    disk = shutil.disk_usage(Path.cwd())
    clock = _clock_mhz()
    return Hardware(
        cores=_measured(cores, "processors this process may use"),
        memory_bytes=_measured(memory, "physical memory, or the limit of the control group"),
        memory_budget_bytes=Quantity(memory // 2, "approximate", "half of the memory; the rest is for everything else"),
        flash_bytes=_measured(disk.total, "disk of the current folder"),
        flash_budget_bytes=_measured(max(disk.free, 1), "free space on the disk of the current folder"),
        clock_mhz=None if clock is None else _measured(clock, "clock stated by the kernel"),
    )


def _measured(value: float, source: str) -> Quantity:
    return Quantity(value, "measured", f"this machine: {source}")


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError:
        return ""


def _clock_mhz() -> float | None:
    """Highest clock of the first core; virtual machines and some boards state none."""
    stated = _first_line(_MAX_FREQUENCY)
    if stated.isdigit():
        return int(stated) / 1000
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")), None)
