"""The fit of device costs, on systems whose costs are known because the test made them up."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgehone.testing.layer_costs import MLPERF_TINY

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "fit_device_costs.py"
TRUE = np.array([1.0, 1.3, 1.1, 1.5, 2.0])  # cycles per MAC of conv, conv1x1, depthwise, linear; per value
SPEED = {"NUCLEO_H7A3ZI_Q": 0.8, "NUCLEO_L4R5ZI": 1.6, "NUCLEO_U575ZI": 1.4, "DISCO_F746NG": 1.0}


@pytest.fixture(scope="module")
def fit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_device_costs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_device_costs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def published(fit: ModuleType, tmp_path: Path) -> Path:
    """A table of results: four plain systems, one in float, one that ran a single model, one accelerator."""
    file = tmp_path / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, ["round", "submitter", "system", "benchmark", "latency_ms", "framework"])
        table.writeheader()

        def write(system: str, model: str, latency_ms: float) -> None:
            row = {"round": "1.2", "submitter": "someone", "system": system, "framework": "engine 1"}
            table.writerow(row | {"benchmark": model, "latency_ms": latency_ms})

        for system, speed in SPEED.items():
            clock = next(mhz for chip, mhz in fit.CLOCK_MHZ.items() if chip in system)
            for model, layers in MLPERF_TINY.items():
                write(system, model, float(fit.features(layers) @ TRUE) * speed / clock / 1e3)
                write(f"{system}_float", model, 1.0)
        write("NUCLEO_G0B1RE", "ic", 1500.0)
        write("some_accelerator", "ic", 0.1)
    return file


def test_only_plain_complete_systems_are_read(fit: ModuleType, published: Path) -> None:
    systems = fit.read_systems(published)
    assert {system.name for system in systems} == set(SPEED)
    one = next(system for system in systems if system.name == "DISCO_F746NG")
    assert one.cycles == pytest.approx(fit.TINY @ TRUE)


def test_models_that_were_left_out_are_predicted(fit: ModuleType, published: Path) -> None:
    for system in fit.read_systems(published):
        shape = fit.pooled_shape([other for other in fit.read_systems(published) if other.chip != system.chip])
        errors = fit.leave_one_model_out(shape, system.cycles)
        assert np.abs(errors).max() < 0.1  # the prior on the shape pulls a little
        assert fit.TINY @ fit.calibrate(shape, fit.TINY, system.cycles) == pytest.approx(system.cycles, rel=0.01)


def test_one_run_sets_the_speed(fit: ModuleType) -> None:
    costs = fit.calibrate(np.log(TRUE), fit.TINY[[1]], 3.0 * fit.TINY[[1]] @ TRUE)
    assert costs == pytest.approx(3.0 * TRUE, rel=1e-3)


def test_the_factor_holds_95_percent(fit: ModuleType) -> None:
    errors = np.r_[np.zeros(96), np.full(4, np.log(2.0))]
    assert fit.summary(errors)["factor_95"] == pytest.approx(1.0)
    assert fit.summary(np.log(np.full(100, 0.5))) == {
        "n": 100, "median_percent": 100.0, "mean_percent": 100.0, "factor_95": 2.0,
    }  # fmt: skip


def test_boards_are_compared_under_one_runtime_only(fit: ModuleType, published: Path) -> None:
    ratios = fit.board_transfer(fit.read_systems(published))
    assert np.exp(ratios) == pytest.approx(np.full(4, 1.6 / 1.4))  # L4R5 and U575; the M7 boards are another core class
