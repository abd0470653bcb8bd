"""What a study is asked for, in the units the code carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgehone.budget import Budget
from edgehone.errors import BudgetError
from edgehone.techniques.criteria import CRITERIA

MAX_MEMBERS = 12


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Attributes:
        budget: limits that members must hold.
        members: versions wanted, the quantized network of full width included.
        time_s: wall time for the whole study; recoveries get shorter to hold it. None: as long as it takes.
        seed: of everything random.
        criterion: which channels matter, a name of `edgehone.techniques.criteria`.
        allocation: what leaves for a latency. "knapsack" weighs the measured worth of branches and widths against the
            price of every layer; "global" cuts widths alone, all layers ranked against each other; "uniform" cuts
            every layer alike.
        epochs: of each recovery; None takes the task's own.
        qat_epochs: epochs of quantization-aware training after each recovery; 0 for none.
        observer: how activation ranges are chosen.
        l1, l2, dropout: penalties and rate used in recoveries; None keeps the task's own.
    """

    budget: Budget = field(default_factory=Budget)
    members: int = 3
    time_s: float | None = None
    seed: int = 0
    criterion: str = "l2"
    allocation: Literal["knapsack", "global", "uniform"] = "global"
    epochs: float | None = None
    qat_epochs: float = 0.0
    observer: str = "minmax"
    l1: float | None = None
    l2: float | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.members <= MAX_MEMBERS:
            raise BudgetError(f"a family of {self.members} is not possible", do=f"ask for 1 to {MAX_MEMBERS} members")
        if self.time_s is not None and self.time_s <= 0:
            raise BudgetError("no time is left for anything", do="give for example 20min")
        if self.epochs is not None and self.epochs <= 0:
            raise BudgetError(f"{self.epochs} epochs recover nothing", do="give more than 0")
        CRITERIA.get(self.criterion)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every setting but the budget."""
        return {name: value for name, value in asdict(self).items() if name != "budget"}
