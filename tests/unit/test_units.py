"""Quantities: what people write is understood exactly, what is printed reads back, nonsense is refused in words."""

from __future__ import annotations

import math
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehone import units
from edgehone.errors import QuantityError

PARSERS: dict[str, Callable[[str], float]] = {
    "latency": units.parse_latency_us,
    "duration": units.parse_duration_s,
    "size": units.parse_size_bytes,
    "drop": units.parse_drop_pp,
    "power": units.parse_power_mw,
}


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_latency_us, "2ms", 2000.0),
        (units.parse_latency_us, "350us", 350.0),
        (units.parse_latency_us, "350 µs", 350.0),
        (units.parse_latency_us, "0.25s", 250_000.0),
        (units.parse_latency_us, "900ns", 0.9),
        (units.parse_duration_s, "20min", 1200.0),
        (units.parse_duration_s, "1.5h", 5400.0),
        (units.parse_size_bytes, "200kB", 200_000),
        (units.parse_size_bytes, "64KiB", 65_536),
        (units.parse_size_bytes, "1_000 B", 1000),
        (units.parse_size_bytes, "1.9B", 1),
        (units.parse_drop_pp, "1pp", 1.0),
        (units.parse_drop_pp, "0.5%", 0.5),
        (units.parse_drop_pp, "1e-1pp", 0.1),
        (units.parse_drop_pp, "2", 2.0),
        (units.parse_power_mw, "0.5W", 500.0),
    ],
)
def test_what_people_write(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@pytest.mark.parametrize(
    "text",
    ["", " ", "ms", "2 parsecs", "-1ms", "-1kB", "nan ms", "inf", "1,5ms", "2 m s", "1e999s", "1e999", "2ms!", "0x10B"],
)
def test_nonsense_is_refused_with_an_example(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(QuantityError) as caught:
        parse(text)
    assert repr(text) in caught.value.what
    assert "like" in caught.value.do or "for example" in caught.value.do


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_a_number_without_quotes_is_refused_too(parse: Callable[..., float]) -> None:
    with pytest.raises(QuantityError, match="2 is not a"):
        parse(2)


def test_units_of_another_kind_are_refused() -> None:
    for parse, text in ((units.parse_latency_us, "2kB"), (units.parse_size_bytes, "2ms"), (units.parse_drop_pp, "1W")):
        with pytest.raises(QuantityError):
            parse(text)
    with pytest.raises(QuantityError, match="more than all of it"):
        units.parse_drop_pp("100.1pp")
    assert units.parse_drop_pp("100pp") == 100


def test_case_tells_kilo_from_kibi_and_milli_from_mega() -> None:
    assert units.parse_size_bytes("1MB") == 10**6
    for wrong in ("1mB", "1Kib", "1kb"):
        with pytest.raises(QuantityError):
            units.parse_size_bytes(wrong)


@given(st.text(alphabet=string.printable + "µ٣½", max_size=12))
def test_any_text_gives_a_finite_quantity_or_a_quantity_error(text: str) -> None:
    for parse in PARSERS.values():
        try:
            value = parse(text)
        except QuantityError as error:
            assert error.do
        else:
            assert math.isfinite(value) and value >= 0


@given(st.floats(1e-3, 59e6))
def test_a_printed_latency_reads_back(value: float) -> None:
    assert units.parse_latency_us(units.format_latency(value)) == pytest.approx(value, rel=5.1e-3)


@given(st.floats(1e-3, 59.99))
def test_a_printed_duration_under_a_minute_reads_back(value: float) -> None:
    assert units.parse_duration_s(units.format_duration(value)) == pytest.approx(value, rel=5.1e-3)


@given(st.integers(0, 10**12))
def test_a_printed_size_reads_back(value: int) -> None:
    assert units.parse_size_bytes(units.format_size(value)) == pytest.approx(value, rel=5.1e-3, abs=1)


@given(st.floats(0, 100))
def test_a_printed_drop_reads_back(value: float) -> None:
    assert units.parse_drop_pp(units.format_drop(value)) == pytest.approx(value, abs=5.1e-3)


@given(st.floats(1e-3, 1e6))
def test_a_printed_power_reads_back(value: float) -> None:
    assert units.parse_power_mw(units.format_power(value)) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        (units.format_latency(2000), "2 ms"),
        (units.format_latency(103.4), "103 µs"),
        (units.format_latency(0.25), "250 ns"),
        (units.format_latency(75e6), "1 min 15 s"),
        (units.format_duration(75), "1 min 15 s"),
        (units.format_duration(120), "2 min"),
        (units.format_duration(3720), "1 h 2 min"),
        (units.format_duration(7200), "2 h"),
        (units.format_duration(0), "0 s"),
        (units.format_size(200_000), "200 kB"),
        (units.format_size(12), "12 B"),
        (units.format_size(1.05e6), "1.05 MB"),
        (units.format_drop(0.416), "0.42 pp"),
        (units.format_drop(-0.3), "-0.30 pp"),
        (units.format_power(5300), "5.3 W"),
    ],
)
def test_what_is_printed(printed: str, text: str) -> None:
    assert printed == text
