"""A budget: the limits a member must hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from edgehone import units
from edgehone.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """Limits; None means no limit. A member holds a budget when the bad end of every interval does.

    Attributes:
        latency_us: one inference, batch 1, on the target.
        size_bytes: of the model file.
        memory_bytes: peak working memory of one inference (the activation arena).
        drop_pp: loss of the metric against the original network, in percentage points.
    """

    latency_us: float | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    drop_pp: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if item.name != "drop_pp" and not value > 0:  # nor NaN
                raise BudgetError(f"{item.name} is {value}: nothing can be that small", do="give a limit above zero")
            if item.name == "drop_pp" and not 0 <= value <= 100:
                raise BudgetError(f"a drop of {value} pp is not between 0 and 100", do="give for example 1pp")

    @classmethod
    def parse(
        cls,
        *,
        latency: str | None = None,
        size: str | None = None,
        memory: str | None = None,
        drop: str | None = None,
    ) -> Budget:
        """Limits as people write them: Budget.parse(latency="2ms", size="200kB", drop="1pp").

        Raises:
            QuantityError: text that is not such a quantity.
            BudgetError: a limit that nothing can meet.
        """
        return cls(
            latency_us=None if latency is None else units.parse_latency_us(latency),
            size_bytes=None if size is None else units.parse_size_bytes(size),
            memory_bytes=None if memory is None else units.parse_size_bytes(memory),
            drop_pp=None if drop is None else units.parse_drop_pp(drop),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every limit."""
        return asdict(self)
