"""Integer arithmetic of the TFLite reference kernels, on int64 arrays that hold int32 values.

A real factor is an int32 mantissa in [2^30, 2^31) and a power of two. Multiplying by it rounds twice: once in the high
half of the product, once in the shift (gemmlowp: SaturatingRoundingDoublingHighMul, RoundingDivideByPOT).
"Qm" below is a fixed-point number with m integer bits: raw / 2^(31 - m). Functions take and return raw values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]

INT32_MAX = 2**31 - 1
INT32_MIN = -(2**31)


def quantize_multiplier(real: ArrayLike) -> tuple[Integers, Integers]:
    """Positive real factors, any shape, as (mantissa, shift): real = mantissa * 2^(shift - 31).

    Factors below 2^-32 become 0, as in TFLite.
    """
    fraction, shift = np.frexp(np.asarray(real, np.float64))
    mantissa = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    shift = shift.astype(np.int64)
    carried = mantissa == 2**31
    mantissa, shift = np.where(carried, 2**30, mantissa), np.where(carried, shift + 1, shift)
    tiny = shift < -31
    return np.where(tiny, 0, mantissa), np.where(tiny, 0, shift)


def high_multiply(a: Integers, b: Integers | int) -> Integers:
    """a * b / 2^31 to the nearest, halves up: both as Q0, or Qm and Qn → Q(m + n)."""
    return np.asarray(np.minimum((a * b + 2**30) >> 31, INT32_MAX), np.int64)


def rounding_shift(x: Integers, bits: Integers | int) -> Integers:
    """x / 2^bits to the nearest, halves away from zero."""
    half = (np.int64(1) << np.asarray(bits, np.int64)) >> 1
    return np.asarray((x + half - ((x < 0) & (half > 0))) >> bits, np.int64)


def multiply(x: Integers, mantissa: Integers, shift: Integers) -> Integers:
    """x times a quantized multiplier (MultiplyByQuantizedMultiplier, double rounding)."""
    if np.any(shift > 0):
        x = x << np.maximum(shift, 0)
    return rounding_shift(high_multiply(x, mantissa), np.maximum(-shift, 0))


def round_half_away(real: ArrayLike) -> Integers:
    """Nearest integers, halves away from zero (C's round)."""
    return np.asarray(np.sign(real) * np.floor(np.abs(real) + 0.5), np.int64)


def _saturate(x: Integers) -> Integers:
    return np.clip(x, INT32_MIN, INT32_MAX)


# exp(-2^k) as Q0 for k = -2..4 (gemmlowp fixedpoint.h, exp_on_negative_values)
_EXP_OF_MINUS_POWER = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXP_OF_MINUS_EIGHTH = 1895147668
_THIRD = 715827883


def exp_of_negative(x: Integers) -> Integers:
    """exp(x) as Q0 for x <= 0 as Q5.

    The part of x below 1/4 by a Taylor polynomial of degree 4 around -1/8, every higher bit by one multiplication.
    """
    fraction_bits = 26
    quarter = 1 << (fraction_bits - 2)
    rest = (x & (quarter - 1)) - quarter
    t = (rest << 5) + (1 << 28)  # Q5 → Q0, centred on -1/8
    t2 = high_multiply(t, t)
    t3, t4 = high_multiply(t2, t), high_multiply(t2, t2)
    tail = rounding_shift(high_multiply(rounding_shift(t4, 2) + t3, _THIRD) + t2, 1)
    result = _EXP_OF_MINUS_EIGHTH + high_multiply(t + tail, _EXP_OF_MINUS_EIGHTH)
    whole = rest - x
    for exponent, factor in enumerate(_EXP_OF_MINUS_POWER, start=-2):
        is_set = (whole >> (fraction_bits + exponent)) & 1
        result = np.where(is_set == 1, high_multiply(result, factor), result)
    return np.where(x == 0, INT32_MAX, result)


def reciprocal_of_one_plus(x: Integers) -> Integers:
    """1 / (1 + x) as Q0 for x in [0, 1) as Q0, by three Newton-Raphson steps."""
    half_denominator = (x + INT32_MAX + 1) >> 1
    estimate = 1515870810 + high_multiply(half_denominator, -1010580540)  # 48/17 - 32/17 d, Q2
    for _ in range(3):
        error = (1 << 29) - high_multiply(half_denominator, estimate)
        estimate = _saturate(estimate + _saturate(high_multiply(estimate, error) << 2))
    return _saturate(estimate << 1)
