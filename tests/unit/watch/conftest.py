"""A small table with a card, and streams that change."""

from __future__ import annotations

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone_agent.wire.card import Card

DIGEST = "5a" * 32
FEATURES = 6


def rows_of(seed: int, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 6) correlated readings and (n, 1) answers; `shift` moves the first reading, in standard deviations."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, FEATURES)) @ (np.eye(FEATURES) + 0.3)
    x[:, 0] += shift * x[:, 0].std()
    return x.astype(np.float32), x.sum(1, keepdims=True).astype(np.float32)


@pytest.fixture(scope="session")
def table_card() -> Card:
    """A card of 4,000 rows without change."""
    x, y = rows_of(0, 4_000)
    return build_card(x, y, None, kind="regression", model_digest=DIGEST)
