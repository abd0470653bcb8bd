"""`edgehone measure`: latency, memory, cold start, size and accuracy of a model file, alone or against another.

Here, or with --node on another machine; accuracy is judged here only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone.cli._progress import TerminalProgress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehone.data import Prepared
    from edgehone_agent.runtimes import Runtime, Session

help = "measure a model file on this machine or on a node, alone or against another one"
examples = (
    "edgehone measure model.tflite",
    "edgehone measure model.tflite --against model.onnx --task my_task.py",
    "edgehone measure model.onnx --threads 2 --rounds 100 --json",
    "edgehone measure model.tflite --node https://pi.local:7444 --token-file token --ca pi.pem",
)

_FRESH_REPEATS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a .tflite or .onnx file")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with this file, round by round")
    parser.add_argument("--runtime", metavar="NAME", help="runtime of FILE, and of the other where suffixes agree")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each runtime (default 1)")
    parser.add_argument(
        "--rounds", type=int, default=40, metavar="N", help="interleaved rounds, at least 5 (default 40)"
    )
    parser.add_argument("--task", metavar="TASK", help="also judge on this task's test split: a name or file.py[:name]")
    parser.add_argument("--node", metavar="URL", help="measure there: the address of its edgehone-agent measure")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the token that the node was started with")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="who signed the node's certificate, or itself (PEM)")
    parser.add_argument("--fingerprint", metavar="SHA256", help="the node's certificate, instead of --ca")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    _check(args)
    with TerminalProgress() as progress:
        result = _measure(args, progress) if args.node is None else _measure_there(args, progress)
    if args.json:
        print(json.dumps(result))
    else:
        from edgehone.cli._measure_page import show

        show(result)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together."""
    from edgehone.errors import InputError

    if args.node is None:
        given = [name for name in ("token_file", "ca", "fingerprint") if getattr(args, name) is not None]
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} is of use with --node only", do="give --node URL")
    elif args.task is not None:
        raise InputError("--task judges on this machine, and --node measures there", do="run it twice, with one each")


def _paths(args: argparse.Namespace) -> dict[str, Path]:
    return {"file": args.file} | ({} if args.against is None else {"against": args.against})


def _named(args: argparse.Namespace, path: Path) -> str | None:
    """The runtime that --runtime names for a file."""
    return args.runtime if path.suffix == args.file.suffix else None


def _measure_there(args: argparse.Namespace, progress: TerminalProgress) -> dict[str, Any]:
    """The same object as `_measure` gives, of figures that a node took."""
    from edgehone.errors import EdgehoneError
    from edgehone.measure.remote import measure_remote
    from edgehone_agent.measure.size import measure_size
    from edgehone_agent.measure.tokens import read_token
    from edgehone_agent.model import find_runtime

    paths = _paths(args)
    sizes = {key: measure_size(path).to_json() for key, path in paths.items()}
    progress.stage(f"measuring on {args.node}")
    try:
        found = measure_remote(
            args.node,
            {key: path.read_bytes() for key, path in paths.items()},
            runtime={key: _named(args, path) or find_runtime(path).name for key, path in paths.items()},
            rounds=args.rounds,
            threads=args.threads,
            fresh_repeats=_FRESH_REPEATS,
            token=None if args.token_file is None else read_token(args.token_file),
            cafile=args.ca,
            fingerprint=args.fingerprint,
            progress=lambda text: progress.at(0, text),
        )
    except EdgehoneError as error:
        if error.where not in paths:
            raise
        raise type(error)(error.what, where=str(paths[error.where]), do=error.do) from error
    files = []
    for key, path in paths.items():
        told = found.files[key]
        fresh = None if told.fresh_process is None else told.fresh_process.to_json()
        files.append(
            {
                "file": str(path),
                "session": told.session,
                "latency": told.latency.to_json(),
                "fresh_process": fresh,
                "size": sizes[key],
            }
        )
    comparison = _compare_latency(found.latency["file"], found.latency["against"]) if len(paths) == 2 else None
    return {"files": files, "comparison": comparison, "machine": dict(found.machine), "node": found.url}


def _measure(args: argparse.Namespace, progress: TerminalProgress) -> dict[str, Any]:
    """Everything that was measured, as a JSON object: files, comparison (with --against), machine, node."""
    from edgehone.measure.machine import describe_machine
    from edgehone_agent.measure.latency import measure_latency
    from edgehone_agent.measure.size import measure_size
    from edgehone_agent.model import find_runtime

    paths = _paths(args)
    runtimes: dict[str, Runtime] = {}
    sessions: dict[str, Session] = {}
    for key, path in paths.items():
        runtimes[key] = find_runtime(path, _named(args, path))
        sessions[key] = runtimes[key].load(path, threads=args.threads)
    progress.stage("latency", args.rounds)
    latency = measure_latency(sessions, rounds=args.rounds, progress=lambda done, _: progress.at(done))
    files = [
        {
            "file": str(path),
            "session": sessions[key].describe(),
            "latency": latency[key].to_json(),
            "fresh_process": _fresh(path, runtimes[key].name, args.threads, progress),
            "size": measure_size(path).to_json(),
        }
        for key, path in paths.items()
    ]
    comparison = _compare_latency(latency["file"], latency["against"]) if len(paths) == 2 else None
    if args.task is not None:
        judged = _judge(args.task, sessions, progress)
        for entry, accuracy in zip(files, judged["files"], strict=True):
            entry["accuracy"] = accuracy
        if comparison is not None:
            comparison["drop"] = judged["drop"]
    for session in sessions.values():
        session.close()
    return {"files": files, "comparison": comparison, "machine": describe_machine(), "node": None}


def _fresh(path: Path, runtime: str, threads: int, progress: TerminalProgress) -> dict[str, Any]:
    from edgehone_agent.measure.memory import measure_fresh_process

    progress.stage(f"memory and cold start of {path.name}", _FRESH_REPEATS)
    found = measure_fresh_process(
        path, runtime, threads=threads, repeats=_FRESH_REPEATS, progress=lambda done, _: progress.at(done)
    )
    return found.to_json()


def _compare_latency(file: Any, against: Any) -> dict[str, Any]:
    from edgehone_agent.measure.latency import ranks, ratio

    speedup = ratio(against, file)
    return {
        "verdict": ranks(file, against),
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
    }


def _judge(spec: str, sessions: dict[str, Session], progress: TerminalProgress) -> dict[str, Any]:
    """The task's metric of every file on the test split, and the paired drop of the first against the second."""
    from dataclasses import asdict

    from edgehone.data import load_task, prepare
    from edgehone.measure.drop import paired_drop
    from edgehone.measure.metrics import metric_called

    progress.stage(f"opening the task {spec}")
    prepared = prepare(load_task(spec))
    name, targets = prepared.task.metric_name, prepared.test.y.numpy()
    answers = []
    for key, session in sessions.items():
        progress.stage(f"accuracy of the {key}" if key == "file" else "accuracy of the other file", len(targets))
        answers.append(_answers(prepared, session, progress))
    values = [metric_called(name).value(answer, targets) for answer in answers]
    return {
        "files": [
            {"task": prepared.task.name, "metric": name, "value": value, "split": "test", "n": len(targets)}
            for value in values
        ],
        "drop": asdict(paired_drop(name, answers[1], answers[0], targets)) if len(answers) == 2 else None,
    }


def _answers(prepared: Prepared, session: Session, progress: TerminalProgress) -> NDArray[np.floating]:
    """What the metric takes, for every test example: the outputs, or (n,) scores for an anomaly task."""
    import numpy as np

    from edgehone.measure.accuracy import anomaly_scores, outputs

    done = 0
    parts: list[NDArray[np.floating]] = []
    for x, _ in prepared.test.batches(128):
        batch = x.numpy()
        answer = outputs(session, [batch])
        parts.append(anomaly_scores(answer, batch) if prepared.task.kind == "anomaly" else answer)
        done += len(batch)
        progress.at(done)
    return np.concatenate(parts)
