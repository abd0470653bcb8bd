"""Quantization parameters and the integer arithmetic of the oracle, against exact formulas."""

import math
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgehone.graph.fake_quant import MIN_SCALE, affine, fake_quantize, weight_scale
from edgehone.graph.fixed_point import (
    exp_of_negative,
    high_multiply,
    multiply,
    quantize_multiplier,
    reciprocal_of_one_plus,
    round_half_away,
    rounding_shift,
)
from edgehone.graph.quantized import QuantParams

int32 = st.integers(-(2**31) + 1, 2**31 - 1)
mantissas = st.integers(2**30, 2**31 - 1)
reals = st.floats(-1e6, 1e6, width=32)
params = st.builds(
    QuantParams, st.floats(2**-20, 2**10, width=32).map(lambda v: float(np.float32(v))), st.integers(-128, 127)
)


def array(value: int) -> np.ndarray:
    return np.array(value, np.int64)


def half_away(value: Fraction) -> int:
    whole = math.floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


@given(st.floats(2**-30, 2**20))
def test_a_multiplier_is_right_to_31_bits(real: float) -> None:
    mantissa, shift = (int(v) for v in quantize_multiplier(real))
    assert 2**30 <= mantissa < 2**31
    assert abs(Fraction(mantissa) * Fraction(2) ** (shift - 31) / Fraction(real) - 1) <= Fraction(1, 2**31)


@given(st.floats(0, 2**-34))
def test_tiny_multipliers_become_zero(real: float) -> None:
    assert [int(v) for v in quantize_multiplier(real)] == [0, 0]


@given(int32, int32)
def test_high_multiply_rounds_half_up(a: int, b: int) -> None:
    expected = math.floor(Fraction(a * b, 2**31) + Fraction(1, 2))
    assert int(high_multiply(array(a), array(b))) == min(expected, 2**31 - 1)


@given(int32, st.integers(0, 31))
def test_rounding_shift_rounds_half_away_from_zero(x: int, bits: int) -> None:
    assert int(rounding_shift(array(x), bits)) == half_away(Fraction(x, 2**bits))


@given(st.floats(-1e9, 1e9))
def test_round_half_away_is_the_round_of_c(real: float) -> None:
    if abs(real) < 2**51 and real != math.nextafter(0.5, 0) and real != -math.nextafter(0.5, 0):
        assert int(round_half_away(real)) == half_away(Fraction(real))


@given(st.integers(-(2**23), 2**23), st.floats(2**-20, 1.0))
def test_multiplying_is_right_to_less_than_one(x: int, real: float) -> None:
    assert abs(int(multiply(array(x), *quantize_multiplier(real))) - Fraction(real) * x) < 1


@given(st.integers(-(2**31) + 1, 0))
def test_exponential_is_right_to_21_bits(x: int) -> None:
    assert abs(int(exp_of_negative(array(x))) / 2**31 - math.exp(x / 2**26)) < 2**-21


@given(st.integers(0, 2**31 - 1))
def test_reciprocal_is_right_to_26_bits(x: int) -> None:
    assert abs(int(reciprocal_of_one_plus(array(x))) / 2**31 - 1 / (1 + x / 2**31)) < 2**-26


@given(reals, reals)
def test_parameters_hold_zero_exactly_and_both_ends(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    scale, zero_point = affine(torch.tensor(low), torch.tensor(high))
    found = QuantParams(float(scale), int(zero_point))
    assert found.scale >= float(np.float32(MIN_SCALE))
    assert -128 <= found.zero_point <= 127
    for end in (low, 0.0, high):
        reached = float(found.dequantize(found.quantize(np.float32([end])))[0])
        assert abs(reached - end) <= found.scale * 0.501
    assert found.dequantize(found.quantize(np.zeros(1, np.float32)))[0] == 0.0


@given(params)
def test_every_level_survives_a_round_trip(found: QuantParams) -> None:
    levels = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(found.quantize(found.dequantize(levels)), levels)


@given(params, st.lists(reals, min_size=1, max_size=20))
def test_the_twin_rounds_as_the_parameters_do(found: QuantParams, values: list[float]) -> None:
    x = np.float32(values)
    mine = fake_quantize(torch.from_numpy(x), found.scale, found.zero_point).numpy()
    np.testing.assert_allclose(mine, found.dequantize(found.quantize(x)), rtol=1e-6, atol=0)


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), st.floats(-1e3, 1e3, width=32), st.floats(1e-4, 1)
)
def test_a_weight_scale_keeps_weights_and_bias_in_their_integers(
    weight: list[float], bias: float, input_scale: float
) -> None:
    scale = float(weight_scale(torch.tensor([weight]), torch.tensor([bias]), input_scale, 8))
    assert max(abs(value) for value in weight) <= 127.001 * scale
    assert abs(bias) / (input_scale * scale) <= 2**30 * 1.0001
