"""`edgehone bundle`: build the archive that a node receives, look into it, check it, compare two."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehone.record import StudyRecord

help = "build the archive that a node receives; inspect, verify or compare such archives"
examples = (
    "edgehone bundle build digits-family/members/int8 -o digits.bundle",
    "edgehone bundle inspect digits.bundle",
    "edgehone bundle verify digits.bundle",
    "edgehone bundle diff old.bundle new.bundle -o new.delta",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    verbs = parser.add_subparsers(title="what to do", dest="verb", metavar="VERB", required=True)
    build = verbs.add_parser("build", help="make a bundle from a member of a study")
    build.add_argument("member", type=Path, metavar="STUDY_MEMBER", help="a folder STUDY/members/NAME")
    build.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="where the bundle goes")
    build.add_argument("--version", type=int, default=1, metavar="N", help="version of the release (default 1)")
    build.add_argument("--task", metavar="TASK", help="where validation data comes from: a name or file.py[:name]")
    build.add_argument("--no-data", action="store_true", help="build without validation data: no card to watch with")
    build.add_argument("--parent", type=Path, metavar="BUNDLE", help="the bundle that this one follows")
    build.add_argument("--max-latency", metavar="TIME", help="slowest median a node accepts (default 10x the measured)")
    build.add_argument("--unit", default="", metavar="UNIT", help="unit of an input value, for people")
    for name, text in (("inspect", "show what a bundle says about itself"), ("verify", "read and check every part")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("bundle", type=Path, metavar="BUNDLE", help="the file")
    diff = verbs.add_parser("diff", help="compare two bundles, and make a delta between them")
    diff.add_argument("old", type=Path, metavar="OLD", help="the bundle that a node has")
    diff.add_argument("new", type=Path, metavar="NEW", help="the bundle that it shall get")
    diff.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the delta here")
    for verb in verbs.choices.values():
        verb.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; 0 when it is done."""
    verbs = {"build": _build, "inspect": _inspect, "verify": _verify, "diff": _diff}
    result, lines = verbs[args.verb](args)
    print(json.dumps(result) if args.json else "\n".join(lines))
    return 0


def _build(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from edgehone.bundle.build import Wishes, build
    from edgehone.report.study_file import read
    from edgehone.units import format_size, parse_latency_us
    from edgehone_agent.bundle import open_bundle

    folder, name = args.member.absolute().parents[1], args.member.name
    study = read(folder)
    parent = None
    if args.parent is not None:
        with open_bundle(args.parent) as before:
            parent = before.digest
    latency_us = parse_latency_us(args.max_latency) if args.max_latency else None
    wishes = Wishes(args.version, parent, latency_us, args.unit)
    content = build(study, name, folder, wishes, None if args.no_data else _validation(study, args.task))
    _write(args.output, content)
    with open_bundle(args.output) as bundle:
        bundle.verify()
        roles = [part.role for part in bundle.manifest.parts]
        digest = bundle.digest
    told = [f"{args.output}: {name}, version {args.version}, {format_size(len(content))}", f"sha256 {digest}"]
    if "card" not in roles:
        told.append("it has no card: a node that runs it cannot watch for drift")
    return {"path": str(args.output), "sha256": digest, "size_bytes": len(content), "roles": roles}, told


def _validation(study: StudyRecord, spec: str | None) -> NDArray[np.float32]:
    """Validation readings of the study's task.

    Raises:
        InputError: the task is not built in and was not named, or has other data than the study.
    """
    from edgehone.cli._progress import TerminalProgress
    from edgehone.errors import InputError

    with TerminalProgress() as progress:
        progress.stage("reading validation data")
        from edgehone.data.load import BUILTIN, load_task
        from edgehone.data.prepare import prepare

        name = spec or str(study.task["name"])
        if spec is None and name not in BUILTIN.names():
            raise InputError(
                f"the validation data of {name!r} is needed for the card and the probe",
                where="--task",
                do="give --task path/to/task.py, or --no-data",
            )
        prepared = prepare(load_task(name), int(study.settings.get("seed", 0)))
        if prepared.validation.digest() != dict(study.task["digest"])["validation"]:
            raise InputError(
                "this task has other validation data than the study had", where=name, do="give the task of the study"
            )
        return prepared.validation.arrays()[0]


def _inspect(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from edgehone.units import format_size
    from edgehone_agent.bundle import open_bundle

    with open_bundle(args.bundle) as bundle:
        manifest = bundle.manifest
        lines = [
            f"{manifest.task} {manifest.member}, version {manifest.version}, {manifest.kind}, made {manifest.created}",
            f"sha256 {bundle.digest}, {format_size(bundle.size_bytes)}",
            f"takes {manifest.input.shape} float32, answers {manifest.output.shape}, {len(manifest.labels)} labels",
            f"recipe {manifest.recipe or 'unknown'}",
            f"needs {' or '.join(manifest.fit.runtimes)}, {format_size(manifest.fit.memory_bytes)} of memory"
            + (f", at most {manifest.fit.latency_us:.0f} µs" if manifest.fit.latency_us else ""),
        ]
        lines += [f"  {part.role:10} {format_size(part.size_bytes):>9}  {part.path}" for part in manifest.parts]
        for name, figure in manifest.measured.items():
            lines.append(f"  {name}: {figure.get('value'):.6g}{_interval(figure)}")
        return {"sha256": bundle.digest, "size_bytes": bundle.size_bytes, "manifest": manifest.to_json()}, lines


def _interval(figure: dict[str, Any]) -> str:
    low, high = figure.get("low"), figure.get("high")
    return f" ({low:.6g} to {high:.6g})" if low is not None and high is not None else ""


def _verify(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    import tempfile

    from edgehone_agent.bundle import open_bundle
    from edgehone_agent.errors import BundleError
    from edgehone_agent.model import open_model
    from edgehone_agent.probe import read_probe

    told: dict[str, Any] = {}
    with open_bundle(args.bundle) as bundle, tempfile.TemporaryDirectory() as folder:
        bundle.unpack(Path(folder))
        probe = read_probe(bundle.read(bundle.manifest.part("probe")))
        for part in (part for part in bundle.manifest.parts if part.role == "model"):
            with open_model(Path(folder) / part.path, runtime=part.runtime) as model:
                result = probe.check(model)
            if not result.ok:
                raise BundleError(f"{part.path}: {result.text}", where=str(args.bundle), do="build it again")
            told[part.path] = result.text
        lines = [f"{args.bundle}: {len(bundle.manifest.parts)} parts are as promised"]
        return {"ok": True, "probe": told}, [*lines, *(f"  {path}: {text}" for path, text in told.items())]


def _diff(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from edgehone.bundle.compare import compare
    from edgehone.units import format_size

    result, lines = compare(args.old, args.new)
    if args.output is not None:
        from edgehone.bundle.delta import make_delta

        delta = make_delta(args.old, args.new)
        size = args.new.stat().st_size
        if delta is None:
            lines.append("no delta: it would be longer than 60 % of the new bundle; send that whole")
        else:
            _write(args.output, delta)
            lines.append(f"{args.output}: {format_size(len(delta))}, {100 * len(delta) / size:.1f} % of the new bundle")
        result["delta_bytes"] = None if delta is None else len(delta)
    return result, lines


def _write(path: Path, content: bytes) -> None:
    from edgehone_agent.durable import write_bytes

    write_bytes(path, content)
