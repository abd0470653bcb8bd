"""Shared by every test: one torch thread (two collapse when tests run side by side) and no silent skips in CI."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; the test is skipped with the package's name where there is none, and fails in CI."""
    path = shutil.which("chromium")
    if path is None:
        message = "Debian package `chromium` is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
