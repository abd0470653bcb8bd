"""docs/devices.md tells the truth: its example is valid, its figures are those of the profiles and of the fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgehone.devices import device_names, estimate_latency, load_device, parse_device
from edgehone.testing.devices import complaints
from edgehone.testing.layer_costs import MLPERF_TINY

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
ERRORS = json.loads((ROOT / "benchmarks" / "results" / "device_costs.json").read_text(encoding="utf-8"))


def test_the_example_is_a_profile_that_keeps_the_contract() -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    assert complaints(parse_device(example[1], name="my-board", where="docs/devices.md")) == []


@pytest.mark.parametrize("name", device_names())
def test_the_table_shows_what_the_profile_estimates(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    device = load_device(name)
    if device.costs:
        figures = re.search(r"([\d.]+) ms \(([\d.]+) to ([\d.]+)\)", row)
        assert figures is not None
        latency = estimate_latency(device, MLPERF_TINY["ic"])
        assert [float(figure) * 1e3 for figure in figures.groups()] == pytest.approx(
            [latency.value, latency.low, latency.high], rel=0.06
        )


def test_the_stated_errors_are_those_of_the_fit() -> None:
    errors = ERRORS["errors"]
    for kind, label in (("leave_one_model_out", "three other models"), ("one_run_vww", "one other model")):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {label}"))
        for key, digits in (("median_percent", 2), ("mean_percent", 2), ("factor_95", 3)):
            assert f"{errors[kind][key]:.{digits}g}" in row
    for runtime, label in (("x-cube-ai", "X-CUBE-AI 10.2"), ("tflite-micro", "CMSIS-NN kernels")):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `stm32l4`, {label}"))
        for error in ERRORS["profiles"]["stm32l4"][runtime]["leave_one_model_out_percent"].values():
            assert f"{error:+.1f} %" in row
