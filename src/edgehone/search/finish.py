"""The last step of a study: every version measured in one run, judged on the test split once, and written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgehone.budget import Budget
from edgehone.devices import estimate_energy, estimate_latency
from edgehone.graph.cost import macs
from edgehone.graph.ir import Graph
from edgehone.measure.timer import Timer
from edgehone.record import DropRecord, LatencyRecord, MemberRecord, to_json
from edgehone.report.snippet import python_lines
from edgehone.search.judge import Judge
from edgehone.search.layer_costs import layer_costs
from edgehone.search.progress import Progress
from edgehone.search.target import MAIN_FORMAT, MAIN_RUNTIME, Target
from edgehone.search.version import FORMATS, ORIGINAL, Version, export, layers, working_memory
from edgehone.search.workspace import Workspace
from edgehone.units import format_latency, format_size
from edgehone_agent.measure.latency import LatencyResult, Ratio, ratio
from edgehone_agent.measure.memory import FreshProcess, measure_fresh_process
from edgehone_agent.measure.noise import Noise
from edgehone_agent.wire.measurement import Measurement

_ROUNDS = 40
_FRESH = 3
Timings = Mapping[tuple[str, str], LatencyResult]


def finish(
    original: Version, members: list[Version], judge: Judge, target: Target, workspace: Workspace,
    budget: Budget, progress: Progress,
) -> tuple[MemberRecord, tuple[MemberRecord, ...], Noise | None]:  # fmt: skip
    """Records of the original and of every member, and how noisy the machine was (None when nothing was timed)."""
    versions = [original, *members]
    for version in versions:
        export(version, workspace)
    timings = _time(versions, workspace, target.timer, progress) if target.measured else {}
    baseline = _baseline(timings)
    answers = {split: judge.answers(_reference(workspace), FORMATS["onnx"], split) for split in ("validation", "test")}
    records = []
    for version in versions:
        progress.stage(f"testing {version.name}", 1.0)
        record = MemberRecord(
            name=version.name,
            parent=version.parent,
            recipe=tuple(step.to_json() for step in version.recipe),
            files=export(version, workspace),
            parameters=version.graph.parameter_count(),
            macs=macs(version.graph),
            metric={},
            latency=_latency(version, timings, baseline, target, workspace, progress),
            memory=working_memory(version, target.device.title),
            layers=layers(original.graph, version.graph),
            curve=version.curve,
            seconds=version.seconds,
        )
        records.append(_judged(record, version, answers, judge, workspace, progress))
    records = [records[0], *(replace(r, holds=_holds(r, budget), energy=_energy(r, target)) for r in records[1:])]
    for record in records:
        _describe(record, workspace)
    for version in members:
        keep_member_graph(version, workspace)
    noise = max((t.noise for t in timings.values()), key=lambda n: n.spread, default=None)
    return records[0], tuple(records[1:]), noise


def keep_member_graph(version: Version, workspace: Workspace) -> None:
    """Keep the network that a member's integers came from; a refresh starts there."""
    workspace.keep_graph(f"member-{version.name}", version.graph)


def member_graph(workspace: Workspace, name: str) -> Graph | None:
    """The network that a member's integers came from, None when it was not kept."""
    return workspace.graph(f"member-{name}")


def _reference(workspace: Workspace) -> Path:
    """The file that stands for the original: float32 in ONNX Runtime."""
    return workspace.folder / ORIGINAL / "model.onnx"


def _time(versions: list[Version], workspace: Workspace, timer: Timer, progress: Progress) -> Timings:
    """All files of all versions in one interleaved run, on every runtime that there is."""
    progress.stage("measuring latency")
    there = timer.runtimes()
    wanted = [(v, name, runtime) for v in versions for name, runtime in FORMATS.items() if runtime in there]
    files = {f"{v.name} {runtime}": (workspace.folder / v.file(name)).read_bytes() for v, name, runtime in wanted}
    found = timer.time(files, _ROUNDS, {f"{v.name} {runtime}": runtime for v, _, runtime in wanted})
    return {(v.name, runtime): found[f"{v.name} {runtime}"] for v, _, runtime in wanted}


def _baseline(timings: Timings) -> tuple[str, LatencyResult] | None:
    """The original's float file on the runtime that is fastest with it: what every speed-up is counted from."""
    return min(
        ((runtime, timing) for (name, runtime), timing in timings.items() if name == ORIGINAL),
        key=lambda pair: pair[1].median_us,
        default=None,
    )


def _latency(
    version: Version, timings: Timings, baseline: tuple[str, LatencyResult] | None, target: Target,
    workspace: Workspace, progress: Progress,
) -> tuple[LatencyRecord, ...]:  # fmt: skip
    if not target.measured:
        if version.quantized is None:
            return ()
        estimate = estimate_latency(target.device, layer_costs(version.quantized.graph))
        return (LatencyRecord(target.device.costs[0].runtime, version.file(MAIN_FORMAT), estimate),)
    records = []
    for name, runtime in FORMATS.items():
        timing = timings.get((version.name, runtime))
        if timing is None:  # the node has no such runtime
            continue
        path = version.file(name)
        fresh = _fresh(workspace.folder / path, runtime, progress) if target.here else None
        records.append(
            LatencyRecord(
                runtime=runtime,
                file=path,
                latency=_microseconds(timing, target.place),
                p90_us=timing.p90_us,
                p99_us=timing.p99_us,
                speedup=_speedup(timing, baseline, target.place) if version.name != ORIGINAL else None,
                cold_start_ms=fresh.cold_start_ms if fresh else None,
                peak_process_bytes=fresh.peak_bytes if fresh else None,
            )
        )
    return tuple(records)


def _fresh(path: Path, runtime: str, progress: Progress) -> FreshProcess:
    """Memory and cold start in processes of its own."""
    say = lambda *_: progress.at(0.0, "in fresh processes")  # noqa: E731
    return measure_fresh_process(path, runtime, repeats=_FRESH, progress=say)


def _microseconds(timing: LatencyResult, place: str) -> Measurement:
    method = f"median of {timing.rounds} rounds of {timing.calls} calls, all files interleaved, 1 thread, batch 1"
    return Measurement(timing.median_us, "us", method, place, timing.rounds, timing.low_us, timing.high_us)


def _speedup(timing: LatencyResult, baseline: tuple[str, LatencyResult] | None, place: str) -> Measurement | None:
    if baseline is None:
        return None
    runtime, reference = baseline
    found: Ratio = ratio(reference, timing)
    method = f"paired with the original's float file in {runtime}, its fastest runtime, in the same run"
    return Measurement(found.value, "ratio", method, place, found.rounds, found.low, found.high)


def _judged(
    record: MemberRecord, version: Version, answers: Mapping[str, NDArray[Any]], judge: Judge,
    workspace: Workspace, progress: Progress,
) -> MemberRecord:  # fmt: skip
    """Add metric and drop on both splits, and on the test split what changed."""
    metric: dict[str, Measurement] = {}
    drop: dict[str, DropRecord] = {}
    for split, reference in answers.items():
        if version.name == ORIGINAL:
            metric[split] = judge.value(reference, split, "float32 in onnxruntime")
            continue
        file = workspace.folder / version.file(MAIN_FORMAT)
        found = judge.answers(file, MAIN_RUNTIME, split, progress.at)
        metric[split] = judge.value(found, split, f"int8 in {MAIN_RUNTIME}")
        drop[split] = judge.drop(reference, found, split)
        if split == "test":
            record = replace(record, classes=judge.classes(reference, found), flips=judge.flips(reference, found))
    return replace(record, metric=metric, drop=drop)


def _energy(record: MemberRecord, target: Target) -> Measurement | None:
    if target.device.detected or target.device.hardware.active_power_mw is None or not record.latency:
        return None
    return estimate_energy(target.device, record.latency[0].latency)


def _holds(record: MemberRecord, budget: Budget) -> dict[str, bool]:
    """Limit → whether the bad end of the figure holds it."""
    latency = record.latency[0].latency if record.latency else None
    size = next(file.size_bytes for file in record.files if file.format == MAIN_FORMAT)
    held: dict[str, bool] = {}
    if budget.latency_us is not None and latency is not None:
        held["latency_us"] = (latency.high if latency.high is not None else latency.value) <= budget.latency_us
    if budget.size_bytes is not None:
        held["size_bytes"] = size <= budget.size_bytes
    if budget.memory_bytes is not None and record.memory is not None:
        held["memory_bytes"] = record.memory.value <= budget.memory_bytes
    if budget.drop_pp is not None and "test" in record.drop:
        held["drop_pp"] = record.drop["test"].high_pp <= budget.drop_pp
    return held


def _describe(record: MemberRecord, workspace: Workspace) -> None:
    """member.json and README.md beside the files of a version."""
    main = next(file for file in record.files if file.format == MAIN_FORMAT)
    folder = Path(main.path).parent
    workspace.put(f"{folder}/member.json", json.dumps(to_json(record), indent=1).encode())
    figures = [f"{record.metric['test'].unit} {record.metric['test'].value:.4f} on the test split"]
    figures += [f"{format_latency(r.latency.value)} in {r.runtime} ({r.latency.kind})" for r in record.latency]
    local = replace(main, path=Path(main.path).name)
    text = (
        f"# {record.name}\n\n{'; '.join([*figures, format_size(main.size_bytes)])}. To run it, from this folder:\n\n"
        f"```python\n{python_lines(local)}\n```\n"
    )
    workspace.put(f"{folder}/README.md", text.encode())
