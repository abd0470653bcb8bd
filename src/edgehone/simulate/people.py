"""A simulated person who labels what a device saw: some of it, late, and not always right. Pure.

person = SimulatedPerson(scenario.annotator, labels, seed=0)
person.says(node=1, prediction="0123", truth=3)      # a label, or None for "no time"
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgehone.simulate.scenario import Annotator


class SimulatedPerson:
    """Decides by (seed, prediction id), so that asking twice gives the same answer."""

    def __init__(self, settings: Annotator, labels: Sequence[str], *, seed: int) -> None:
        self._settings, self._labels, self._seed = settings, tuple(labels), seed

    def says(self, node: int, prediction: str, truth: int) -> str | None:
        """The label that the person gives to a sample of the uniform share.

        Args:
            node: number of the node; the labels of a malicious one are all flipped.
            prediction: id of the answer.
            truth: id of the true class.
        """
        has_time, errs, which = self._draws(prediction)
        if has_time >= self._settings.share:
            return None
        if node not in self._settings.malicious_nodes and errs >= self._settings.error_rate:
            return self._labels[truth]
        others = [label for number, label in enumerate(self._labels) if number != truth]
        if node in self._settings.malicious_nodes:  # always the same lie: the next class
            return self._labels[(truth + 1) % len(self._labels)]
        return others[int(which * len(others))] if others else self._labels[truth]

    def _draws(self, prediction: str) -> tuple[float, float, float]:
        digest = hashlib.sha256(f"{self._seed}\0{prediction}".encode()).digest()
        first, second, third = (int.from_bytes(digest[8 * n : 8 * n + 6], "big") / 2**48 for n in range(3))
        return first, second, third
