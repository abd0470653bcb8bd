"""How numbers are written."""

from __future__ import annotations

import math

import pytest

from edgehone.record import DropRecord
from edgehone.report import figures
from edgehone.report.figures import Figure
from edgehone.testing.records import bare_record, example_record
from edgehone_agent.wire.measurement import Measurement

NBSP, THIN = "\u00a0", "\u202f"


@pytest.mark.parametrize(
    ("value", "text"), [(5.43, "5.4×"), (12.6, "13×"), (9.96, "10×"), (0.4, "0.40×"), (1.0, "1.0×"), (431, "431×")]
)
def test_ratios_have_two_digits(value: float, text: str) -> None:
    assert figures.ratio(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (940, "940"), (71_722, "71.7 k"), (31_021_952, "31 M"), (999_700, "1000 k"), (4.2e9, "4.2 G")],
)
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert figures.count(value) == text


def test_rates_are_percent_and_other_metrics_are_not() -> None:
    assert figures.rate(0.9261, "accuracy") == "92.61 %"
    assert figures.rate(0.92614, "auc") == "0.9261"
    assert figures.rate(-0.25, "r2") == "−0.25"


def test_a_gain_is_a_negative_drop_with_a_real_minus() -> None:
    assert figures.points(-0.2) == "−0.20 pp"
    assert figures.points(-0.001) == "0.00 pp"


def test_an_interval_names_its_unit_once() -> None:
    assert figures.interval(39.6, 41.0, figures.units.format_latency) == f"39.6 to 41{NBSP}µs"
    assert figures.interval(990.0, 1010.0, figures.units.format_latency) == f"990 µs to 1.01{NBSP}ms"
    assert figures.interval(None, 1.0, str) == figures.interval(1.0, math.inf, str) == ""


def test_an_estimate_says_so() -> None:
    estimate = Measurement(80.0, "us", "a model of the device", "raspberry-pi-4", 0, kind="estimated")
    figure = figures.latency(estimate)
    assert figure.estimated
    assert figure.how == "estimated: a model of the device; raspberry-pi-4"
    assert not figures.latency(Measurement(80.0, "us", "median", "here", 40)).estimated


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_missing(value: float) -> None:
    assert figures.latency(Measurement(value, "us", "m", "p", 1)) == Figure() == figures.latency(None)


def test_a_drop_tells_how_many_examples_changed() -> None:
    figure = figures.drop(DropRecord(0.31, -0.05, 0.67, "paired bootstrap", 10_000, 65, 34, 0.0021))
    assert figure.value == "0.31 pp"
    assert figure.interval == f"−0.05 to 0.67{NBSP}pp"
    assert figure.how == f"paired bootstrap; n = 10{THIN}000; 65 worse, 34 better; p = 0.0021"


def test_the_devices_runtime_comes_first() -> None:
    study = example_record()
    assert figures.runtimes(study) == ("litert", "onnxruntime")
    study.device["runtime"] = "onnxruntime"  # type: ignore[index]
    assert figures.runtimes(study) == ("onnxruntime", "litert")
    assert figures.runtimes(bare_record()) == ()


def test_the_main_file_is_the_one_that_the_runtime_ran() -> None:
    member = example_record().members[0]
    assert [figures.main_file(member, name).format for name in ("onnxruntime", "litert", "unknown")] == [  # type: ignore[union-attr]
        "onnx", "tflite", "tflite",
    ]  # fmt: skip
    assert figures.main_file(bare_record().original, "litert") is None


def test_settings_read_as_words() -> None:
    assert figures.plain({"temperature": 4.0, "soft_targets": True}) == "temperature 4, soft targets yes"
    assert figures.plain([1, None, "x"]) == "1, –, x"
