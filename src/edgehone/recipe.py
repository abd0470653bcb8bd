"""A recipe: ordered techniques with their settings, as data. Its name decodes.

name(recipe)     "prune-l2-global-40 + distil-3 + quantize-int8"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgehone.errors import RecipeError


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


def check_order(steps: Sequence[Step]) -> None:
    """Refuse an order that makes no sense.

    Raises:
        RecipeError: an empty recipe, or a step after `quantize`: integers can be neither cut nor trained.
    """
    if not steps:
        raise RecipeError("the recipe is empty", do="give it at least one step, for example quantize")
    for position, step in enumerate(steps[:-1]):
        if step.technique == "quantize":
            after = steps[position + 1].technique
            raise RecipeError(f"{after!r} comes after 'quantize'", do="quantize last: integers cannot be trained")
