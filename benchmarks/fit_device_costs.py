"""Fits the cycles per operation that device profiles carry, and says how wrong they are on models not seen.

    python benchmarks/fit_device_costs.py mlperf_tiny_results.csv --litert-models FOLDER \\
        -o benchmarks/results/device_costs.json

The csv holds published MLPerf Tiny rows, collected from github.com/mlcommons/tiny_results_v1.0 to v1.3, with the
columns round, submitter, system, benchmark, latency_ms, framework. FOLDER holds the four reference .tflite files of
github.com/mlcommons/tiny; they are timed on this machine with LiteRT.

Model: cycles = Σ over layers of MACs * cost[kind] + values written * cost[output], all costs positive. Four models
cannot determine five costs, so they are maximum a posteriori: the *shape* (costs relative to conv) is pooled over the
boards of other chips, one system may depart from it by SHAPE_SD (log), and a measurement counts with NOISE_SD (log).
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.optimize import least_squares

from edgehone.devices import LayerCost
from edgehone.testing.layer_costs import MLPERF_TINY, MOBILENETS, PERSON_DETECTION

Array = NDArray[np.float64]
COSTS = ("conv", "conv1x1", "depthwise", "linear", "output")
MODELS = tuple(MLPERF_TINY)
SHAPE_CENTRE = np.log([1.0, 1.0, 1.0, 1.0, 2.0])  # equal cost per MAC, two cycles to requantize a value
CENTRE_SD, POOL_SD, NOISE_SD, SHAPE_SD = 0.3, 0.15, 0.03, 0.1
SHAPE_SD_TRIED = (0.05, 0.1, 0.2, 0.3, 0.5)

CLOCK_MHZ = {
    "H7A3": 280, "L4R5": 120, "U575": 160, "U585": 160, "U385": 96, "F746": 216, "G0B1": 64,
    "CY8C": 150, "NRF5340": 128, "M467": 200, "RH850": 240, "RA8D1": 480,
}  # fmt: skip
CORTEX_M4_M33 = {"L4R5", "U575", "U385", "CY8C", "M467", "NRF5340"}

# github.com/google/XNNPACK README, February 2022, int8, all four cores; board clocks of that time.
XNNPACK_MS = {"cortex-a72": {"v1": 24.0, "v2": 17.0}, "cortex-a53": {"v1": 46.0, "v2": 30.0}}
XNNPACK_MHZ = {"cortex-a72": 1500, "cortex-a53": 1400}
PARALLEL_EFFICIENCY = 0.8  # assumed: four threads do the work of 3.2
# SIMD kernels run every dense layer through one matrix product, so those share a cost; the rest is left to the data.
LINUX_SHAPE = np.log([1.0, 1.0, 3.0, 1.0, 10.0])
LINUX_SHAPE_SD = np.array([0.05, 0.05, 0.5, 0.05, 0.5])
# github.com/espressif/esp-tflite-micro README: person detection with ESP-NN, 54 ms at 240 MHz
ESP32_S3_CYCLES = 54_000 * 240

OWN = {
    "stm32h7": ("x-cube-ai", "H7A3", "1.2", "NUCLEO_H7A3ZI_Q"),
    "stm32l4": ("x-cube-ai", "L4R5", "1.3", "NUCLEO_L4R5ZI-P"),
}
SAME_KERNELS = {
    "stm32l4": ("tflite-micro", "L4R5", "1.1", "NUCLEO-L4R5ZI_MICROTVM-CMSIS-NN"),
    "nrf52840": ("tflite-micro", "L4R5", "1.1", "NUCLEO-L4R5ZI_MICROTVM-CMSIS-NN"),
}


@dataclass(frozen=True)
class System:
    """One submission: a chip, a runtime, and the cycles of the four models."""

    chip: str
    round: str
    submitter: str
    name: str
    framework: str
    cycles: Array  # (4,) in the order of MODELS


def features(layers: Sequence[LayerCost]) -> Array:
    """(5,): MACs by kind, then output values of all layers."""
    return np.array(
        [sum(layer.macs for layer in layers if layer.kind == kind) for kind in COSTS[:4]]
        + [sum(layer.outputs for layer in layers)],
        dtype=np.float64,
    )


TINY = np.stack([features(MLPERF_TINY[model]) for model in MODELS])  # (4, 5)


def read_systems(path: Path) -> list[System]:
    """Submissions on plain microcontroller cores that ran all four models in int8."""
    found: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            chip = next((chip for chip in CLOCK_MHZ if chip in row["system"].upper()), None)
            variant = any(word in row["system"] for word in ("float", "min_ram", "max_performance"))
            if chip and row["benchmark"] in MODELS and row["latency_ms"] and not variant:
                key = (chip, row["round"], row["submitter"], row["system"], row["framework"])
                found[key][row["benchmark"]] = float(row["latency_ms"]) * 1e3 * CLOCK_MHZ[chip]
    return [
        System(*key, np.array([cycles[model] for model in MODELS]))
        for key, cycles in found.items()
        if len(cycles) == len(MODELS)
    ]


def pooled_shape(systems: Sequence[System]) -> Array:
    """(5,) log costs relative to conv that suit all systems, each with a speed of its own."""
    observed = np.log(np.stack([system.cycles for system in systems]))  # (n, 4)

    def residuals(p: Array) -> Array:
        predicted = np.log(TINY @ np.exp(np.r_[0.0, p[:4]])) + p[4:, None]
        return np.r_[((predicted - observed) / POOL_SD).ravel(), (p[:4] - SHAPE_CENTRE[1:]) / CENTRE_SD]

    return np.r_[0.0, least_squares(residuals, np.r_[SHAPE_CENTRE[1:], np.zeros(len(systems))]).x[:4]]


def calibrate(shape: Array, work: Array, cycles: Array, shape_sd: float | Array = SHAPE_SD) -> Array:
    """(5,) cycles per unit of work from the (n, 5) work and (n,) cycles of measured models."""

    def residuals(p: Array) -> Array:
        misfit = np.log(work @ np.exp(shape + p[0] + p[1:])) - np.log(cycles)
        return np.r_[misfit / NOISE_SD, p[1:] / shape_sd]

    found = least_squares(residuals, np.zeros(6)).x
    costs: Array = np.exp(shape + found[0] + found[1:])
    return costs


def log_error(costs: Array, work: Array, cycles: Array) -> Array:
    """Log of predicted over measured."""
    error: Array = np.log(work @ costs / cycles)
    return error


def leave_one_model_out(shape: Array, cycles: Array, shape_sd: float | Array = SHAPE_SD) -> Array:
    """(4,) log errors of predicting each model from the other three."""
    errors = []
    for left_out in range(len(MODELS)):
        rest = [index for index in range(len(MODELS)) if index != left_out]
        costs = calibrate(shape, TINY[rest], cycles[rest], shape_sd)
        errors.append(log_error(costs, TINY[left_out], cycles[left_out]))
    return np.array(errors)


def summary(errors: Array) -> dict[str, float]:
    """Absolute log errors as percent (e^|x| - 1), and the factor that holds 95 % of them."""
    percent = (np.exp(np.abs(errors)) - 1) * 100
    return {
        "n": int(errors.size),
        "median_percent": round(float(np.median(percent)), 1),
        "mean_percent": round(float(np.mean(percent)), 1),
        "factor_95": round(float(np.exp(np.quantile(np.abs(errors), 0.95))), 2),
    }


def board_transfer(systems: Sequence[System]) -> Array:
    """Log ratios of cycles between two chips of one core class under the same submitter, runtime and round."""
    ratios = []
    for i, one in enumerate(systems):
        for other in systems[i + 1 :]:
            same = (one.round, one.submitter, one.framework) == (other.round, other.submitter, other.framework)
            if same and one.chip != other.chip and {one.chip, other.chip} <= CORTEX_M4_M33 and one.framework:
                ratios.append(np.log(one.cycles / other.cycles))
    return np.concatenate(ratios)


def host_latencies_us(folder: Path) -> dict[str, float]:
    """Median LiteRT latency of the four reference files on this machine: one thread, rounds interleaved."""
    from ai_edge_litert.interpreter import Interpreter

    names = {"kws": "kws_ref_model", "vww": "vww_96_int8", "ic": "pretrainedResnet_quant", "ad": "ad01_int8"}
    sessions = {}
    for model, name in names.items():
        sessions[model] = Interpreter(str(folder / f"{name}.tflite"), num_threads=1)
        sessions[model].allocate_tensors()
    times: dict[str, list[float]] = {model: [] for model in names}
    for turn in range(60):
        for model in MODELS if turn % 2 else reversed(MODELS):
            start = time.perf_counter()
            for _ in range(50):
                sessions[model].invoke()
            times[model].append((time.perf_counter() - start) / 50 * 1e6)
    return {model: statistics.median(times[model]) for model in MODELS}


def as_costs(costs: Array, **more: object) -> dict[str, Any]:
    """Costs by name, three significant digits."""
    return {name: float(f"{cost:.3g}") for name, cost in zip(COSTS, costs, strict=True)} | more


def fit_microcontrollers(systems: Sequence[System]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Profiles and errors of everything that MLPerf Tiny rows can say."""
    shapes = {
        chip: pooled_shape([system for system in systems if system.chip != chip])
        for chip in {system.chip for system in systems}
    }
    tried = {
        str(sd): summary(np.concatenate([leave_one_model_out(shapes[s.chip], s.cycles, sd) for s in systems]))
        for sd in SHAPE_SD_TRIED
    }
    own = np.concatenate([leave_one_model_out(shapes[system.chip], system.cycles) for system in systems])
    vww = MODELS.index("vww")
    others = [index for index in range(len(MODELS)) if index != vww]
    one_run = np.concatenate(
        [
            log_error(calibrate(shapes[s.chip], TINY[[vww]], s.cycles[[vww]]), TINY[others], s.cycles[others])
            for s in systems
        ]
    )
    transfer = board_transfer(systems)
    both = np.log([summary(own)["factor_95"], summary(transfer)["factor_95"]])
    errors = {
        "leave_one_model_out": summary(own),
        "leave_one_model_out_by_shape_sd": tried,
        "one_run_vww": summary(one_run),
        "same_runtime_other_board": summary(transfer),
        "same_kernels_other_board": {"factor_95": round(float(np.exp(np.hypot(*both))), 2)},
    }
    profiles: dict[str, Any] = defaultdict(dict)
    for table, factor in ((OWN, errors["leave_one_model_out"]), (SAME_KERNELS, errors["same_kernels_other_board"])):
        for profile, (runtime, chip, edition, name) in table.items():
            system = next(s for s in systems if (s.round, s.name) == (edition, name))
            costs = calibrate(shapes[chip], TINY, system.cycles)
            fitted = log_error(costs, TINY, system.cycles)
            unseen = leave_one_model_out(shapes[chip], system.cycles)
            profiles[profile][runtime] = as_costs(
                costs,
                factor=factor["factor_95"],
                fitted_percent=percent_by_model(fitted),
                leave_one_model_out_percent=percent_by_model(unseen),
            )
    shape = pooled_shape(systems)
    esp = calibrate(shape, features(PERSON_DETECTION)[None], np.array([ESP32_S3_CYCLES], dtype=np.float64))
    profiles["esp32-s3"]["tflite-micro"] = as_costs(esp, factor=errors["one_run_vww"]["factor_95"])
    return {"shape": as_costs(np.exp(shape)), "errors": errors, "systems": len(systems)}, profiles


def percent_by_model(errors: Array) -> dict[str, float]:
    """Signed error in percent per model; positive is too slow an estimate."""
    return {model: round(float(np.expm1(error) * 100), 1) for model, error in zip(MODELS, errors, strict=True)}


def fit_linux() -> dict[str, Any]:
    """Cycles per core of two Arm cores from the kernel library's own table."""
    work = np.stack([features(MOBILENETS[name]) for name in ("v1", "v2")])
    cores: dict[str, Any] = {}
    for core, times in XNNPACK_MS.items():
        cycles = np.array([times["v1"], times["v2"]]) * 1e3 * XNNPACK_MHZ[core] * 4 * PARALLEL_EFFICIENCY
        cores[core] = as_costs(calibrate(LINUX_SHAPE, work, cycles, LINUX_SHAPE_SD))
    return cores


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, write the JSON, print the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--litert-models", type=Path, help="also time the four reference files on this machine")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    systems = read_systems(args.csv)
    result, profiles = fit_microcontrollers(systems)
    result: Mapping[str, Any] = result | {"profiles": profiles, "linux_cores": fit_linux()}
    if args.litert_models:
        latencies = host_latencies_us(args.litert_models)
        cycles = np.array([latencies[model] for model in MODELS]) * 1e3  # per GHz, so costs are in nanoseconds
        unseen = leave_one_model_out(LINUX_SHAPE, cycles, LINUX_SHAPE_SD)
        result |= {
            "host": as_costs(
                calibrate(LINUX_SHAPE, TINY, cycles, LINUX_SHAPE_SD),
                unit="ns",
                latency_us={model: round(value, 2) for model, value in latencies.items()},
                leave_one_model_out_percent=percent_by_model(unseen),
            )
        }
    head = {
        "command": "python benchmarks/fit_device_costs.py mlperf_tiny_results.csv --litert-models FOLDER -o FILE",
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
    }
    args.output.write_text(json.dumps(head | result, indent=2) + "\n", encoding="utf-8")
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
