"""One family for all tests of this folder: made once, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehone.record import StudyRecord
from edgehone.testing.studies import readings, write_study


@dataclass(frozen=True)
class Family:
    """A study's folder, its record, and readings that its networks take."""

    folder: Path
    study: StudyRecord
    x: NDArray[np.float32]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("bundle") / "family"
    return Family(folder, write_study(folder), readings((1, 8, 8), 200))
