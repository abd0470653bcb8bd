"""Write the golden card and state of this release. Run once per version of the format; never change what is there.

python tests/unit/watch/make_golden.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgehone.bundle.card import build_card
from edgehone_agent.watch import Watcher, merge
from edgehone_agent.wire.card import Card

FOLDER = Path(__file__).parent / "golden"


def golden() -> tuple[bytes, bytes]:
    """A card with embedding and a state that two nodes made."""
    rng = np.random.default_rng(0)
    x, y, hidden = rng.random((300, 2, 5)), rng.standard_normal((300, 3)), rng.standard_normal((300, 12))
    card = build_card(x, y, hidden, kind="classification", model_digest="c0" * 32, seed=7)
    states = []
    for node in (1, 2):
        watcher = Watcher(card, seed=node)
        watcher.observe(x.astype(np.float32), y.astype(np.float32), hidden.astype(np.float32))
        states.append(watcher.to_bytes())
    return card.to_bytes(), merge(*states)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    card_bytes, state_bytes = golden()
    version = card_bytes[4]
    (FOLDER / f"card-{version}.bin").write_bytes(card_bytes)
    (FOLDER / f"state-{version}.bin").write_bytes(state_bytes)
    Card.from_bytes(card_bytes)
