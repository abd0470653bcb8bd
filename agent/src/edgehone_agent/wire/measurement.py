"""A measurement: one number that says where it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["measured", "estimated"]


@dataclass(frozen=True)
class Measurement:
    """One figure with its unit, its method and its uncertainty.

    Attributes:
        value: the figure, in `unit`.
        unit: "us", "bytes", "pp", "ratio", "accuracy", "mJ", …
        method: how it was obtained, in words a reader can check ("median of 40 rounds x 50 calls, interleaved").
        place: where: machine and runtime, or the data split for accuracies.
        n: how many observations stand behind it.
        low, high: bounds of the 95 % interval; None when none can be given.
        kind: "measured" on the real thing, or "estimated" by a model. An estimate is never shown as measured.
    """

    value: float
    unit: str
    method: str
    place: str
    n: int
    low: float | None = None
    high: float | None = None
    kind: Kind = "measured"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """Read one back; fields it does not know are ignored."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})
