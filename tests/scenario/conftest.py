"""A task that trains in a second, as a user's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL_TASK = '''
"""Eight by eight digits, a small convolutional network, one short training."""
from dataclasses import replace

from edgehone.data.builtin.digits import task as digits
from edgehone.task import Training

small = replace(
    digits(), name="small",
    training=Training(epochs=6, batch_size=64, learning_rate=0.1),
    recovery=Training(epochs=2, batch_size=64, learning_rate=0.05),
)
'''


@pytest.fixture(scope="session")
def small_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a task file."""
    path = tmp_path_factory.mktemp("task") / "small_task.py"
    path.write_text(SMALL_TASK)
    return path
