"""Studies that never ran: records with realistic figures, for tests and for looking at pages. Never shown as results.

example_record()                            Fashion-MNIST, ResNet-20, three members, every field filled
example_record(12, 1000, elsewhere=True)    twelve members, a thousand classes, latency estimated
bare_record()                               the least a record can hold: every optional field empty
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any, Literal

from edgehone.record import (
    ClassRecord,
    CurvePoint,
    DropRecord,
    FileRecord,
    FlipRecord,
    LatencyRecord,
    LayerRecord,
    MemberRecord,
    StudyRecord,
    TrialRecord,
)
from edgehone_agent.wire.measurement import Kind as MeasurementKind
from edgehone_agent.wire.measurement import Measurement

TaskKind = Literal["classification", "regression", "anomaly"]

FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
METRIC = {"classification": "accuracy", "regression": "r2", "anomaly": "auc"}
TEST_EXAMPLES = 10_000
FLOAT_US = {"litert": 268.0, "onnxruntime": 290.0}
INT8_US = {"litert": 80.0, "onnxruntime": 121.0}
LIMITS = {"latency_us": 60.0, "size_bytes": 140_000, "memory_bytes": None, "drop_pp": 1.0}


def example_record(
    members: int = 3,
    classes: int = 10,
    *,
    kind: TaskKind = "classification",
    elsewhere: bool = False,
    met: bool = True,
    seed: int = 7,
) -> StudyRecord:
    """A full study of a ResNet-20 on Fashion-MNIST-like data.

    Args:
        members: size of the family, 1 to 12.
        classes: number of labels of a classification.
        kind: a regression or an anomaly task has no classes and no flips.
        elsewhere: the device is not this machine, so latency and memory are estimated.
        met: False makes every member miss a limit.
        seed: of the figures' noise.
    """
    rng = random.Random(seed)
    labels = tuple(FASHION[i] if i < len(FASHION) else f"class {i}" for i in range(classes))
    labels = labels if kind == "classification" else ()
    place = "raspberry-pi-4" if elsewhere else "this machine"
    measured: MeasurementKind = "estimated" if elsewhere else "measured"
    original = _member(0, members, labels, kind, place, measured, rng)
    family = tuple(_member(i + 1, members, labels, kind, place, measured, rng) for i in range(members))
    if not met:
        family = tuple(replace(m, holds={limit: limit == "latency_us" for limit in m.holds}) for m in family)
    return StudyRecord(
        task={
            "name": "fashion-mnist",
            "kind": kind,
            "metric": METRIC[kind],
            "labels": list(labels),
            "input_shape": [1, 28, 28],
            "examples": {"train": 54_000, "validation": 6_000, "test": TEST_EXAMPLES},
            "data_digest": "sha256:" + "5f1c9d7e" * 8,
        },
        device={
            "name": "raspberry-pi-4" if elsewhere else "this-machine",
            "title": "Raspberry Pi 4" if elsewhere else "This machine",
            "here": not elsewhere,
            "runtime": "litert",
            "latency": "estimated from multiply-adds and memory traffic" if elsewhere else "measured here",
        },
        budget=dict(LIMITS),
        settings={
            "members": members, "seed": 7, "time_limit_s": 480.0, "criterion": "taylor", "allocation": "global",
            "step": 8,
        },
        machine={
            "cpu": "AMD EPYC 7763 64-Core Processor",
            "flags": ["avx2", "fma", "f16c"],
            "cores": 2,
            "memory_bytes": 8_200_000_000,
            "machine": "x86_64",
            "os": "Linux 6.12.9",
            "python": "3.11.11",
            "versions": {
                "edgehone": "0.1.0",
                "ai-edge-litert": "2.3.0",
                "onnxruntime": "1.31.1",
                "torch": "2.13.0",
            },
            "load_1min": 0.31,
            "noise": 0.014,
        },
        original=original,
        members=family,
        trials=_trials(family),
        met=any(all(m.holds.values()) for m in family),
        verdict=_verdict(family),
        front=tuple(m.name for m in (original, *family)),
        seconds={"profile": 14.2, "rank": 6.8, "cut and recover": 214.0, "quantize": 21.5, "measure": 37.9},
        created="2026-11-24T09:30:00+00:00",
    )  # fmt: skip


def bare_record() -> StudyRecord:
    """The least a record can hold: one member, and every optional field empty."""

    def member(name: str, parent: str | None) -> MemberRecord:
        return MemberRecord(name, parent, recipe=(), files=(), parameters=0, macs=0, metric={})

    return StudyRecord(
        task={}, device={}, budget={}, settings={}, machine={}, original=member("original", None),
        members=(member("int8", "original"),), trials=(), met=False, verdict="", front=(), seconds={}, created="",
    )  # fmt: skip


def _verdict(family: tuple[MemberRecord, ...]) -> str:
    holding = sum(all(m.holds.values()) for m in family)
    if not holding:
        return "No member holds every limit: the drop of each may be more than 1 pp. The nearest are shown."
    return f"{holding} of {len(family)} members hold every limit that was asked for."


def _keep(index: int, members: int) -> float:
    """Share of the channels that member `index` keeps: 1 for the original and int8, then geometric down to 0.3."""
    return 1.0 if index <= 1 else 0.3 ** ((index - 1) / max(1, members - 1))


def _member(
    index: int, members: int, labels: tuple[str, ...], kind: TaskKind, place: str, measured: MeasurementKind,
    rng: random.Random,
) -> MemberRecord:  # fmt: skip
    keep = _keep(index, members)
    name = "original" if index == 0 else "int8" if index == 1 else f"w{round(100 * keep)}-int8"
    layers = _layers(keep, max(1, len(labels)), rng)
    parameters = _parameters(layers)
    lost = 0.0 if index == 0 else 0.04 + 1.1 * (1 - keep) ** 2
    files = _files(name, index, parameters)
    latency = tuple(_latency(file, index, keep, place, measured, rng) for file in files)
    drops = {split: _drop(lost, n, rng) for split, n in (("validation", 6_000), ("test", TEST_EXAMPLES))}
    arena = round((200_704 if index == 0 else 50_176) * (0.4 + 0.6 * keep))
    holds = {
        "latency_us": (latency[0].latency.high or math.inf) <= LIMITS["latency_us"],  # type: ignore[operator]
        "size_bytes": files[0].size_bytes <= LIMITS["size_bytes"],  # type: ignore[operator]
        "drop_pp": drops["test"].high_pp <= LIMITS["drop_pp"],  # type: ignore[operator]
    }
    return MemberRecord(
        name=name,
        parent=None if index == 0 else "original" if index == 1 else _parent(index, members),
        recipe=_recipe(index, keep),
        files=files,
        parameters=parameters,
        macs=sum(layer.macs for layer in layers),
        metric={split: _metric(kind, split, lost) for split in ("validation", "test")},
        drop={} if index == 0 else drops,
        latency=latency,
        memory=Measurement(
            arena, "bytes", "largest sum of live activations, by the planner", place, 1, kind="estimated"
        ),
        layers=layers,
        curve=_curve(index, lost),
        classes=_classes(labels, lost, index, rng),
        flips=_flips(labels, lost, index, rng),
        holds={} if index == 0 else holds,
        seconds=0.0 if index == 0 else 42.0 + 9 * index,
    )


def _parent(index: int, members: int) -> str:
    return "original" if index == 2 else f"w{round(100 * _keep(index - 1, members))}-int8"


def _recipe(index: int, keep: float) -> tuple[dict[str, Any], ...]:
    if index == 0:
        return ()
    quantize = {"technique": "quantize", "scheme": "tflite-int8", "observer": "mse", "qat": False}
    if index == 1:
        return (quantize,)
    return (
        {"technique": "prune", "criterion": "taylor", "allocation": "global", "keep": round(keep, 2), "step": 8},
        {"technique": "recover", "epochs": 2.5, "distil": {"temperature": 4.0, "weight": 0.7}},
        quantize,
    )


def _files(name: str, index: int, parameters: int) -> tuple[FileRecord, ...]:
    bytes_each = 4 if index == 0 else 1
    folder = "original" if index == 0 else f"members/{name}"
    overhead = {"tflite": 11_400, "onnx": 24_800 if index else 9_900}
    sizes = {form: parameters * bytes_each + extra for form, extra in overhead.items()}
    return tuple(
        FileRecord(f"{folder}/model.{form}", form, size, round(size * (0.92 if index == 0 else 0.83)), "a7c3" * 16)
        for form, size in sizes.items()
    )


def _latency(
    file: FileRecord, index: int, keep: float, place: str, kind: MeasurementKind, rng: random.Random
) -> LatencyRecord:
    runtime = "litert" if file.format == "tflite" else "onnxruntime"
    power = 1.12 if runtime == "litert" else 0.7
    slower = 6.3 if kind == "estimated" else 1.0
    value = slower * (FLOAT_US[runtime] if index == 0 else INT8_US[runtime] * keep**power) * rng.uniform(0.985, 1.015)
    spread = 0.25 if kind == "estimated" else rng.uniform(0.006, 0.02)
    how = (
        "multiply-adds and memory traffic of the profile" if kind == "estimated" else "median of 40 rounds, interleaved"
    )
    latency = Measurement(
        value, "us", how, f"{place}, {runtime}", 0 if kind == "estimated" else 40, value * (1 - spread),
        value * (1 + spread), kind,
    )  # fmt: skip
    if kind == "estimated":
        return LatencyRecord(runtime, file.path, latency)
    ratio = FLOAT_US[runtime] / value
    speedup = Measurement(ratio, "ratio", how, f"{place}, {runtime}", 40, ratio * 0.98, ratio * 1.02)
    return LatencyRecord(
        runtime, file.path, latency, value * 1.06, value * 1.31, None if index == 0 else speedup, 3.4, 47_000_000
    )


def _metric(kind: TaskKind, split: str, lost_pp: float) -> Measurement:
    n = 6_000 if split == "validation" else TEST_EXAMPLES
    value = 0.926 - lost_pp / 100 + (0.004 if split == "validation" else 0.0)
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return Measurement(value, METRIC[kind], "Wilson interval", f"{split} split", n, value - half, value + half)


def _drop(lost_pp: float, n: int, rng: random.Random) -> DropRecord:
    changed = round(n * (0.012 + lost_pp / 60))
    net = round(n * lost_pp / 100)
    half = 196 * math.sqrt(changed) / n
    worse = (changed + net) // 2
    low, high = lost_pp - half, lost_pp + half
    p_value = rng.uniform(0.2, 0.6) if low < 0 else 0.004
    return DropRecord(lost_pp, low, high, "paired Wald interval, exact McNemar test", n, worse, worse - net, p_value)


def _layers(keep: float, outputs: int, rng: random.Random) -> tuple[LayerRecord, ...]:
    plan: list[tuple[str, int, int, int, int]] = [("stem.conv", 1, 16, 28, 3)]
    inputs = 16
    for stage, (width, side) in enumerate(((16, 28), (32, 14), (64, 7)), 1):
        for block in range(3):
            plan.append((f"layer{stage}.{block}.conv1", inputs, width, side, 3))
            plan.append((f"layer{stage}.{block}.conv2", width, width, side, 3))
            if inputs != width:
                plan.append((f"layer{stage}.{block}.shortcut", inputs, width, side, 1))
            inputs = width
    widths = {16: _cut(16, keep), 32: _cut(32, keep), 64: _cut(64, keep), 1: 1}
    layers = []
    for name, incoming, width, side, kernel in plan:
        inner = name.endswith("conv1") and keep < 1
        after = _cut(width, keep * rng.choice((0.7, 1.0, 1.15))) if inner else widths[width]
        macs = side * side * kernel * kernel * widths[incoming] * after
        layers.append(LayerRecord(name, "conv2d", width, after, macs, _magnitudes(after, keep, rng)))
    final = LayerRecord("fc", "linear", outputs, outputs, widths[64] * outputs, _magnitudes(outputs, 0.3, rng))
    return (*layers, final)


def _cut(width: int, keep: float) -> int:
    return max(8, min(width, 8 * round(width * keep / 8)))


def _magnitudes(width: int, keep: float, rng: random.Random) -> tuple[int, ...]:
    """Bins of relative norms: wide layers have channels near zero, cut ones do not."""
    bins = [0] * 10
    centre = 0.48 if keep == 1.0 else 0.68
    for _ in range(width):
        small = keep == 1.0 and rng.random() < 0.18
        norm = rng.uniform(0, 0.12) if small else min(1.0, max(0.02, rng.gauss(centre, 0.17)))
        bins[min(9, int(norm * 10))] += 1
    return tuple(bins)


def _parameters(layers: tuple[LayerRecord, ...]) -> int:
    """Weights and biases; the input width of a layer is read off its multiply-adds."""
    side = {"stem": 28, "layer1": 28, "layer2": 14, "layer3": 7, "fc": 1}
    return sum(layer.macs // side[layer.name.split(".")[0]] ** 2 + layer.width_after for layer in layers)


def _curve(index: int, lost_pp: float) -> tuple[CurvePoint, ...]:
    if index == 1:
        return ()
    points, epochs = (12, 12.0) if index == 0 else (10, 2.5)
    start, end = (1.1, 0.11) if index == 0 else (0.62 + 0.1 * index, 0.16 + 0.03 * index)
    best = 0.93 - lost_pp / 100
    curve = []
    for step in range(1, points + 1):
        done = step / points
        loss = end + (start - end) * math.exp(-4.2 * done) * (1 + 0.05 * math.sin(9 * step))
        metric = best - (0.16 if index == 0 else 0.03 + 0.012 * index) * math.exp(-4.5 * done)
        rate = 0.1 * (1 + math.cos(math.pi * done)) / 2
        curve.append(CurvePoint(epochs * done, loss, rate, metric, 11.0 * epochs * done))
    return tuple(curve)


def _classes(labels: tuple[str, ...], lost_pp: float, index: int, rng: random.Random) -> tuple[ClassRecord, ...]:
    if index == 0:
        return ()
    n = max(1, TEST_EXAMPLES // max(1, len(labels)))
    hard = {"shirt": 0.775, "coat": 0.885, "pullover": 0.89, "T-shirt": 0.872, "dress": 0.93}
    records = []
    for label in labels:
        original = hard.get(label, rng.uniform(0.955, 0.99))
        member = original - lost_pp / 100 * rng.uniform(-0.4, 2.6) * (2.2 if label in hard else 0.6)
        records.append(ClassRecord(label, n, original, min(1.0, max(0.0, member))))
    return tuple(records)


def _flips(labels: tuple[str, ...], lost_pp: float, index: int, rng: random.Random) -> tuple[FlipRecord, ...]:
    if index == 0 or len(labels) < 2:
        return ()
    alike = [("shirt", "T-shirt"), ("T-shirt", "shirt"), ("coat", "pullover"), ("shirt", "coat"), ("pullover", "coat")]
    counts = {pair: round((1 + lost_pp) * rng.uniform(5, 22)) for pair in alike if set(pair) <= set(labels)}
    for _ in range(min(40, len(labels) ** 2)):
        before, after = rng.sample(labels, 2)
        counts.setdefault((before, after), rng.randint(1, 3))
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return tuple(FlipRecord(before, after, count) for (before, after), count in ranked)


def _trials(family: tuple[MemberRecord, ...]) -> tuple[TrialRecord, ...]:
    kept = [
        TrialRecord(
            m.name, m.parent, "kept", "holds the allowed drop", m.latency[0].latency, m.files[0].size_bytes,
            m.metric["validation"],
        )
        for m in family
    ]  # fmt: skip
    last = family[-1]
    place = last.latency[0].latency.place
    slow = Measurement(79.1, "us", "median of 40 rounds, interleaved", place, 40, 77.9, 80.6)
    small = Measurement(16.8, "us", "median of 40 rounds, interleaved", place, 40, 16.5, 17.2)
    poor = Measurement(0.894, "accuracy", "Wilson interval", "validation split", 6_000, 0.886, 0.902)
    return (
        kept[0],
        TrialRecord(
            "w94-int8", "original", "dropped",
            "not measurably faster than int8: the intervals of 79.1 and 80 µs overlap", slow, 262_000, poor,
        ),
        *kept[1:],
        TrialRecord(
            "w19-int8", last.name, "dropped", "lost 3.6 pp on the validation split after 2.5 epochs; 1 pp is allowed",
            small, 31_000, poor,
        ),
        TrialRecord("w31-int8-qat", last.name, "dropped", "the time limit of 8 min was reached before it recovered"),
    )  # fmt: skip
