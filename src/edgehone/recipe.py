"""A recipe: ordered techniques with their settings, as data. Its name decodes.

name(steps)      "prune-l2-global-40 + distil-3 + int8"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One technique with its settings; `label` is the part of the recipe's name that stands for it."""

    technique: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object: {"technique": ..., its settings}."""
        return {"technique": self.technique, **self.settings}


def name(steps: Sequence[Step]) -> str:
    """The recipe's name, from the labels of its steps in order."""
    return " + ".join(step.label or step.technique for step in steps)
