"""Budgets: parsed from text, refused when nothing could meet them."""

from __future__ import annotations

import math

import pytest

from edgehone.budget import Budget
from edgehone.errors import BudgetError, QuantityError


def test_limits_as_people_write_them() -> None:
    budget = Budget.parse(latency="2ms", size="200kB", memory="64KiB", drop="1pp")
    assert budget == Budget(latency_us=2000.0, size_bytes=200_000, memory_bytes=65_536, drop_pp=1.0)
    assert budget.to_json() == {"latency_us": 2000.0, "size_bytes": 200_000, "memory_bytes": 65_536, "drop_pp": 1.0}


def test_no_limit_is_none() -> None:
    assert Budget.parse() == Budget()
    assert set(Budget().to_json().values()) == {None}


def test_a_drop_of_nothing_is_a_limit() -> None:
    assert Budget.parse(drop="0pp").drop_pp == 0.0


@pytest.mark.parametrize("name", ["latency_us", "size_bytes", "memory_bytes"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_limits_that_nothing_meets(name: str, value: float) -> None:
    with pytest.raises(BudgetError, match=name):
        Budget(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 100.1, math.nan, math.inf])
def test_drops_that_are_none(value: float) -> None:
    with pytest.raises(BudgetError, match="not between 0 and 100"):
        Budget(drop_pp=value)


@pytest.mark.parametrize("limit", [{"latency": "0ms"}, {"size": "0.4B"}, {"memory": "0kB"}])
def test_text_that_rounds_to_nothing(limit: dict[str, str]) -> None:
    with pytest.raises(BudgetError, match="nothing can be that small"):
        Budget.parse(**limit)


def test_text_that_is_no_quantity() -> None:
    with pytest.raises(QuantityError, match="latency"):
        Budget.parse(latency="200kB")
