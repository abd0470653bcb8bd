"""The process that trains: `python -m edgehone.loop.worker SPEC.json`. Nothing else of the loop loads torch.

Rules:
- The spec names the round's folder, the study, the task's source, members, settings, dataset and blobs.
- Two steps: train (`search.refresh`, resumable) writes `trained.json`; bundle writes NAME.bundle for each member and
  then `bundles.json`. A file that is there is a step that is done, and is not done again.
- A round without training bundles the members of the study as they are.
- Each bundle holds a drift reference of the task, and one of each cohort that the dataset has enough readings of.
- One worker per round at a time: it holds `worker.lock`, and whoever comes second leaves at once.
- Whoever starts it sets OMP_NUM_THREADS. It runs at low priority, in bounded memory, and ends when its parent is gone
  or a file `stop` appears: what was finished is kept. Progress goes to stdout, a line
  at a time. What went wrong is in `failed.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgehone.errors import InputError
from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import EdgehoneError

TRAINED, BUNDLES, FAILED = "trained.json", "bundles.json", "failed.json"
LEARNING = ("epochs", "rate", "share", "seed")  # of the spec: settings of `search.refresh`
LOCK, STOP, STUDY = "worker.lock", "stop", "study"
STOPPED = 130
_NICE = 15
_WATCH_S = 0.5
_SAY_EVERY_S = 1.0
_MOST_BYTES = 1 << 30  # of cohorts' readings held at once


class Lines:
    """Progress as lines on stdout, at most one a second for each stage."""

    def __init__(self) -> None:
        self._title, self._total, self._said_s = "", 0.0, 0.0

    def stage(self, title: str, total: float | None = None) -> None:
        """See `search.progress.Progress`."""
        self._title, self._total = title, total or 0.0
        self.say(title)

    def at(self, done: float, note: str = "") -> None:
        """See `search.progress.Progress`."""
        now_s = time.monotonic()
        if self._total and now_s - self._said_s >= _SAY_EVERY_S:
            self._said_s = now_s
            self.say(f"{self._title}: {done / self._total:.0%} {note}".rstrip())

    def say(self, text: str) -> None:
        """See `search.progress.Progress`."""
        sys.stdout.write(text.replace("\n", " ") + "\n")
        sys.stdout.flush()


def main(argv: list[str]) -> int:
    """Do what is not done yet, and return the exit code: 0 done, 4 and up as the command line has them, 130 stopped."""
    spec = json.loads(Path(argv[0]).read_text())
    folder = Path(spec["folder"])
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    os.nice(_NICE)
    if spec["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_DATA, (spec["memory_bytes"], spec["memory_bytes"]))
    threading.Thread(target=_watch, args=(folder, os.getppid()), daemon=True).start()
    try:
        _work(spec, folder, Lines())
    except EdgehoneError as error:
        return _fail(folder, error.what, str(error), error.exit_code)
    except MemoryError:
        return _fail(folder, "the training needs more memory than it may use", "raise memory_bytes of the policy", 6)
    return 0


def _work(spec: Mapping[str, Any], folder: Path, lines: Lines) -> None:
    from edgehone.loop.dataset import load
    from edgehone.record import to_json
    from edgehone.records.blobs import open_blobs
    from edgehone.search.refresh import RefreshSettings, refresh

    trains = spec["kind"] == "retrain"
    study = folder / STUDY if trains else Path(spec["study"])
    if trains and not (folder / TRAINED).exists():
        settings = RefreshSettings(**{name: spec[name] for name in LEARNING})
        data = load(open_blobs(spec["blobs"]), spec["dataset"])
        done = refresh(
            Path(spec["study"]), spec["source"], data, study,
            members=spec["members"], settings=settings, progress=lines,
        )  # fmt: skip
        _write(
            folder / TRAINED, {"members": [to_json(member) for member in done.members], "settings": asdict(settings)}
        )
    if not (folder / BUNDLES).exists():
        _bundle(spec, folder, study, lines)


def _bundle(spec: Mapping[str, Any], folder: Path, study: Path, lines: Lines) -> None:
    from edgehone.bundle import said
    from edgehone.bundle.build import Wishes, build
    from edgehone.bundle.readings import validation_readings
    from edgehone.loop.dataset import load_contexts
    from edgehone.records.blobs import open_blobs
    from edgehone.report.study_file import read

    record = read(study)
    lines.stage("reading validation data")
    x = validation_readings(record, spec["source"])
    contexts = load_contexts(
        open_blobs(spec["blobs"]), spec["dataset"], said.input_shape(record), least=spec["card_readings"],
        most_bytes=_MOST_BYTES,
    )  # fmt: skip
    files = {}
    for name in spec["members"]:
        lines.stage(f"bundling {name}", len(x))
        wishes = Wishes(spec["version"], spec["parent"].get(name), created=spec["created"])
        content = build(record, name, study, wishes, x, lambda done, _: lines.at(done), contexts)
        write_bytes(folder / f"{name}.bundle", content)
        files[name] = f"{name}.bundle"
    rows = {name: len(readings) for name, readings in contexts.items()}
    _write(folder / BUNDLES, {"version": spec["version"], "files": files, "contexts": rows})


def _watch(folder: Path, parent: int) -> None:
    while os.getppid() == parent and not (folder / STOP).exists():
        time.sleep(_WATCH_S)
    os._exit(STOPPED)


def _fail(folder: Path, what: str, text: str, code: int) -> int:
    _write(folder / FAILED, {"what": what, "text": text})
    return code


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_bytes(path, json.dumps(value, indent=1).encode())


def run(argv: list[str]) -> int:
    """`main`, for a command line.

    Raises:
        InputError: not one argument.
    """
    if len(argv) != 1:
        raise InputError(f"{len(argv)} arguments", where="worker", do="give the path of one SPEC.json")
    return main(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
