"""Peak memory and cold start of a file, each taken in processes of their own.

Cold means a new process; the file and the library are in the disk cache of the machine, as after a restart of the
service and not of the machine. Start-up of Python and numpy is not counted: a node pays it once, whatever it runs.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgehone_agent.errors import EdgehoneError, HostError, InputError, MissingExtraError, ModelFileError
from edgehone_agent.plugins import PluginError
from edgehone_agent.runtimes._files import check_threads

TIMEOUT_S = 120.0
_BARE_REPEATS = 2  # peaks of a bare process agree to a few kilobytes
_ERRORS: dict[str, type[EdgehoneError]] = {
    kind.code: kind for kind in (InputError, ModelFileError, PluginError, HostError, MissingExtraError)
}


@dataclass(frozen=True)
class FreshProcess:
    """Medians over fresh processes.

    Attributes:
        cold_start_ms: import_ms + load_ms + first_run_ms, the median of the sums.
        import_ms, load_ms, first_run_ms: importing the library, opening the file, its first answer.
        peak_bytes: largest resident memory of the process with the file loaded and run once.
        bare_bytes: the same of a process that only imports Python, numpy and the library.
        model_bytes: the model's own share, the difference of the two (0 when it drowns in the allocator's noise).
        repeats: how many processes ran the file.
    """

    cold_start_ms: float
    import_ms: float
    load_ms: float
    first_run_ms: float
    peak_bytes: int
    bare_bytes: int
    model_bytes: int
    repeats: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)


def measure_fresh_process(
    path: Path,
    runtime: str,
    *,
    threads: int = 1,
    repeats: int = 5,
    progress: Callable[[int, int], None] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> FreshProcess:
    """Load and run a file once in each of `repeats` new processes, after two bare ones.

    Args:
        path: the model file.
        runtime: name of the runtime.
        threads: of the runtime, 1 to the number of cores.
        repeats: how many processes; at least 1.
        progress: called with (processes done, processes).
        timeout_s: for each process.

    Raises:
        ModelFileError: the runtime refuses the file, or dies on it.
        InputError: `repeats` or `threads` out of range.
        HostError: a process could not be started, or took more than `timeout_s`.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}", do="give at least 1")
    check_threads(threads)
    bare = [_probe(runtime, threads, None, timeout_s) for _ in range(_BARE_REPEATS)]
    full = []
    for done in range(1, repeats + 1):
        full.append(_probe(runtime, threads, path, timeout_s))
        if progress is not None:
            progress(done, repeats)
    peak = int(statistics.median(int(figures["peak_bytes"]) for figures in full))
    bare_peak = int(statistics.median(int(figures["peak_bytes"]) for figures in bare))
    steps = ("import_s", "load_s", "first_run_s")
    medians = [1e3 * statistics.median(figures[step] for figures in full) for step in steps]
    return FreshProcess(
        cold_start_ms=1e3 * statistics.median(sum(figures[step] for step in steps) for figures in full),
        import_ms=medians[0],
        load_ms=medians[1],
        first_run_ms=medians[2],
        peak_bytes=peak,
        bare_bytes=bare_peak,
        model_bytes=max(0, peak - bare_peak),
        repeats=repeats,
    )


def _probe(runtime: str, threads: int, path: Path | None, timeout_s: float) -> dict[str, float]:
    # -P keeps the working folder off the import path: a stray numpy.py there must not be run.
    command = [sys.executable, "-P", "-m", "edgehone_agent.measure.probe", runtime, str(threads)]
    where = str(path or runtime)
    try:
        done = subprocess.run(
            [*command, str(path.resolve())] if path is not None else command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            start_new_session=True,  # Ctrl-C on a terminal is for us: to a dying child we would blame the file
        )
    except subprocess.TimeoutExpired:
        raise HostError(
            f"a fresh process took more than {timeout_s:.0f} s", where=where, do="try on a quieter machine"
        ) from None
    except OSError as error:
        raise HostError(f"no fresh process could be started: {error.strerror}", where=where) from error
    if done.returncode < 0:
        died = signal.Signals(-done.returncode).name
        raise ModelFileError(
            f"the runtime {runtime} dies on this file ({died})", where=where, do="export the file again, or report it"
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HostError(f"a fresh process failed: {last}", where=where)
    outcome: dict[str, Any] = json.loads(done.stdout)
    if "error" in outcome:
        told = outcome["error"]
        raise _ERRORS.get(told["code"], ModelFileError)(told["what"], where=told["where"], do=told["do"])
    return outcome
