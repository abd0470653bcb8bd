"""`edgehone core` that does what it does by itself four times as often: a rollout takes its steps and no seconds.

A test names the program with `quick(COMMAND)`; scenarios of the command itself run it as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

FASTER = 4.0
REAL = ("-m", "edgehone.cli.main", "core", "start")


def quick(command: Sequence[str]) -> list[str]:
    """The command that starts a core, changed to the program in this file; any other one as it is."""
    program, *rest = command
    if tuple(rest[: len(REAL)]) != REAL:
        return [program, *rest]
    return [program, str(Path(__file__)), *rest[REAL.index("core") :]]


def main() -> int:
    """Be the command."""
    from edgehone.service import jobs

    usual = jobs.core_jobs()
    jobs.DRIVE_S /= FASTER
    jobs.core_jobs = lambda: tuple(replace(job, every_s=job.every_s / FASTER) for job in usual)
    from edgehone.cli.main import main as edgehone

    return edgehone(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
