"""The fresh process that `memory` starts: `python -m edgehone_agent.measure.probe RUNTIME THREADS [FILE]`.

Imports the runtime, loads the file and runs it once, timing each step; without a file it only imports. Writes one JSON
object to stdout: the figures, or the error. It does nothing before `main`, so that importing it costs nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgehone_agent.errors import EdgehoneError
from edgehone_agent.runtimes import RUNTIMES


def peak_bytes() -> int:
    """Largest resident memory this process has had.

    Read from /proc, because Linux hands `ru_maxrss` down through fork and exec: a process started by a large parent
    would report the parent's peak (getrusage(2), and `exec_mmap` in the kernel's fs/exec.c).
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def probe(runtime_name: str, threads: int, file: Path | None) -> dict[str, Any]:
    """Figures of this process: seconds of each step and peak bytes. Raises what the runtime raises."""
    runtime = RUNTIMES.get(runtime_name)
    started = time.perf_counter()
    runtime.version()  # imports the library
    imported = time.perf_counter()
    if file is None:
        return {"import_s": imported - started, "peak_bytes": peak_bytes()}
    session = runtime.load(file, threads=threads)
    loaded = time.perf_counter()
    session.run(np.zeros(session.input.shape, session.input.dtype))
    ran = time.perf_counter()
    return {
        "import_s": imported - started,
        "load_s": loaded - imported,
        "first_run_s": ran - loaded,
        "peak_bytes": peak_bytes(),
    }


def main(argv: Sequence[str]) -> int:
    """Probe what the arguments name and write the outcome as one line of JSON."""
    name, threads, *file = argv
    try:
        outcome = probe(name, int(threads), Path(file[0]) if file else None)
    except EdgehoneError as error:
        outcome = {"error": {"code": error.code, "what": error.what, "where": error.where, "do": error.do}}
    sys.stdout.write(json.dumps(outcome) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
