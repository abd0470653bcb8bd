"""Ctrl-C waits for the next step of progress, and a second one does not."""

from __future__ import annotations

import os
import signal
import time

import pytest

from edgehone.cli._progress import TerminalProgress


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


def test_ctrl_c_takes_effect_at_the_next_step_of_progress() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), TerminalProgress(quiet=True) as progress:
        progress.stage("one", 2.0)
        interrupt()
        reached = True
        progress.at(1.0)
    assert reached


@pytest.mark.parametrize("step", ["stage", "say"])
def test_every_step_heeds_it(step: str) -> None:
    with pytest.raises(KeyboardInterrupt), TerminalProgress(quiet=True) as progress:
        interrupt()
        getattr(progress, step)("two")


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), TerminalProgress(quiet=True):
        interrupt()
        interrupt()
        pytest.fail("the second one was swallowed")


def test_the_handler_of_before_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with TerminalProgress(quiet=True):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
