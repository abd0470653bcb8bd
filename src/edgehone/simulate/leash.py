"""Run a program that ends when whoever started it does: python -m edgehone.simulate.leash PARENT PROGRAM ARGUMENT...

Rules:
- The kernel sends SIGTERM when the parent dies, however it dies (prctl(2), PR_SET_PDEATHSIG); exec keeps that.
- The parent may be gone before the kernel was asked: then the program does not begin.
- The signal comes when the starting *thread* ends; start programs from a thread that stays.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the program; return when the parent is gone. Raises OSError when the program cannot be run."""
    parent, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0 or os.getppid() != int(parent):
        return
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.exit(1)
