"""Range observers against exact answers."""

import numpy as np
import pytest
import torch

from edgehone.errors import DataError
from edgehone.graph.observers import OBSERVERS, MeanSquaredError, MinMax, MovingAverage, Percentile


def batches(seed: int = 0, count: int = 4, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5000, generator=generator) * scale * (1 + i) for i in range(count)]


def observed(name: str, values: list[torch.Tensor]) -> tuple[float, float]:
    observer = OBSERVERS[name]()
    for batch in values:
        observer.update(batch)
    return observer.range()


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    scale = (max(high, 0) - min(low, 0)) / 255
    zero = np.clip(round(-128 - min(low, 0) / scale), -128, 127)
    levels = np.clip(np.rint(values / scale) + zero, -128, 127)
    return float(np.square((levels - zero) * scale - values).mean())


@pytest.mark.parametrize("name", OBSERVERS)
def test_same_batches_give_the_same_range(name: str) -> None:
    assert observed(name, batches()) == observed(name, batches())


@pytest.mark.parametrize("name", OBSERVERS)
def test_constant_zero_and_nothing_seen(name: str) -> None:
    assert OBSERVERS[name]().range() == (0.0, 0.0)
    assert observed(name, [torch.zeros(10)]) == (0.0, 0.0)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(DataError, match="NaN or Inf"):
        OBSERVERS[name]().update(torch.tensor([1.0, value]))


@pytest.mark.parametrize("name", OBSERVERS)
def test_an_empty_batch_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="empty"):
        OBSERVERS[name]().update(torch.zeros(0, 3))


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_ranges_scale_with_the_values(name: str, scale: float) -> None:
    low, high = observed(name, batches(scale=scale))
    plain_low, plain_high = observed(name, batches())
    assert low == pytest.approx(plain_low * scale, rel=0.02)
    assert high == pytest.approx(plain_high * scale, rel=0.02)


def test_minmax_is_exact() -> None:
    values = torch.cat(batches())
    assert observed("minmax", batches()) == (float(values.min()), float(values.max()))


def test_moving_average_follows_the_formula() -> None:
    observer = MovingAverage(momentum=0.25)
    for end in (1.0, 2.0, 4.0):
        observer.update(torch.tensor([-end, end]))
    expected = 0.75 * (0.75 * 1.0 + 0.25 * 2.0) + 0.25 * 4.0
    assert observer.range() == pytest.approx((-expected, expected))


def test_percentile_agrees_with_numpy() -> None:
    values = torch.cat(batches()).numpy()
    observer = Percentile(share=0.01)
    for batch in batches():
        observer.update(batch)
    low, high = observer.range()
    assert low == pytest.approx(np.quantile(values, 0.01), abs=0.02)
    assert high == pytest.approx(np.quantile(values, 0.99), abs=0.02)


def test_percentile_ignores_one_outlier_and_minmax_does_not() -> None:
    values = [*batches(), torch.tensor([1e4])]
    assert observed("minmax", values)[1] == 1e4
    assert observed("percentile", values)[1] < 30


def test_mse_has_the_smallest_error_of_a_search_over_both_ends() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.cat([torch.randn(20000, generator=generator), torch.tensor([-6.0, 30.0])])
    found = observed("mse", [values])
    error = squared_error(values.numpy(), *found)
    grid = [
        squared_error(values.numpy(), -6 * a, 30 * b) for a in np.linspace(0.2, 1, 17) for b in np.linspace(0.1, 1, 19)
    ]
    assert error <= min(grid) * 1.02
    assert error < squared_error(values.numpy(), -6, 30)


def test_mse_keeps_a_one_sided_range_one_sided() -> None:
    observer = MeanSquaredError()
    observer.update(torch.randn(1000, generator=torch.Generator().manual_seed(0)).abs())
    low, high = observer.range()
    assert low >= 0
    assert high > 0


def test_histograms_do_not_depend_on_the_order_of_magnitudes() -> None:
    values = batches(count=3)
    assert observed("percentile", values) == observed("percentile", values[::-1])
    assert isinstance(OBSERVERS["minmax"](), MinMax)
