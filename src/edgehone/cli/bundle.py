"""`edgehone bundle`: build the archive that a node receives, look into it, check it, compare two."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone.cli._progress import TerminalProgress
from edgehone.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehone.record import StudyRecord

help = "build the archive that a node receives; inspect, verify or compare such archives"
examples = (
    "edgehone bundle build digits-family/members/int8 -o digits.bundle",
    "edgehone bundle build my-family/members/w22-int8 -o 2.bundle --task my_task.py --version 2 --parent 1.bundle",
    "edgehone bundle inspect digits.bundle",
    "edgehone bundle verify digits.bundle --json",
    "edgehone bundle diff 1.bundle 2.bundle",
    "edgehone bundle diff 1.bundle 2.bundle -o from-1.delta",
)

_NO_BOUND = "none"
Outcome = tuple[dict[str, Any], list[str]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        lines = (f"  {line}" for line in examples if line.startswith(f"edgehone bundle {name}"))
        added = verbs.add_parser(
            name, help=text, description=text, epilog="examples:\n" + "\n".join(lines),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        return added

    build = verb("build", "make a bundle from a member of a study")
    build.add_argument("member", type=Path, metavar="STUDY_MEMBER", help="a folder STUDY/members/NAME")
    build.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="where the bundle goes")
    build.add_argument("--version", type=int, default=1, metavar="N", help="version of the release (default 1)")
    data = build.add_mutually_exclusive_group()
    data.add_argument(
        "--task", metavar="TASK", help="whose validation data to use: a name or file.py[:name] (default: the study's)"
    )
    data.add_argument("--no-data", action="store_true", help="use no data: no card to watch with, a probe of noise")
    build.add_argument(
        "--context", action="append", default=[], metavar="NAME=FILE",
        help="raw readings of one cohort, (N, ...): nodes of that name watch with a card made of these; repeat it",
    )  # fmt: skip
    build.add_argument("--parent", type=Path, metavar="BUNDLE", help="the bundle that this one follows")
    build.add_argument(
        "--max-latency", metavar="TIME", help="slowest median that a node accepts, or none (default 10x the study's)"
    )
    build.add_argument("--unit", default="", metavar="UNIT", help="unit of an input value, for people")
    for name, text in (
        ("inspect", "show what a bundle says about itself"),
        ("verify", "read every part, and ask every model file the golden probe"),
    ):
        verb(name, text).add_argument("bundle", type=Path, metavar="BUNDLE", help="the file")
    diff = verb("diff", "compare two bundles, and make a delta between them")
    diff.add_argument("old", type=Path, metavar="OLD", help="the bundle that a node has")
    diff.add_argument("new", type=Path, metavar="NEW", help="the bundle that it shall get")
    diff.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the delta here")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says, print what came of it, and return 0."""
    result, lines = _VERBS[args.verb](args)
    print(json.dumps(result) if args.json else "\n".join(lines))
    return 0


def _build(args: argparse.Namespace) -> Outcome:
    from edgehone.bundle.archive import write_output
    from edgehone.bundle.build import Wishes, build
    from edgehone.bundle.golden import tells_apart
    from edgehone.report.study_file import read
    from edgehone.units import format_size
    from edgehone_agent.bundle import open_bundle
    from edgehone_agent.probe import read_probe

    folder, name = _locate(args.member)
    study = read(folder)
    wishes = Wishes(args.version, _digest(args.parent), _latency_us(args.max_latency), args.unit, _source_date())
    with TerminalProgress(quiet=args.json) as progress:
        x = None if args.no_data else _validation(study, args.task, progress)
        progress.stage("asking the member", None if x is None else len(x))
        content = build(study, name, folder, wishes, x, lambda done, _: progress.at(done), _contexts(args.context))
    write_output(args.output, content)
    with open_bundle(args.output) as bundle:
        bundle.verify()
        digest, parts = bundle.digest, bundle.manifest.parts
        weak = not tells_apart(read_probe(bundle.read(bundle.manifest.part("probe"))))
    warnings = []
    if not any(part.role == "card" for part in parts):
        reason = "it was built without data" if x is None else f"{len(x)} readings are too few"
        warnings.append(f"it has no card, because {reason}: a node that runs it cannot watch for drift")
    if weak:
        warnings.append("its golden probe gets the same answer to every input, so it would not notice another model")
    lines = [f"{args.output}: {name}, version {args.version}, {format_size(len(content))}", f"sha256 {digest}"]
    result = {"path": str(args.output), "sha256": digest, "size_bytes": len(content), "warnings": warnings}
    return {**result, "parts": [vars(part) for part in parts]}, [*lines, *(f"! {text}" for text in warnings)]


def _locate(member: Path) -> tuple[Path, str]:
    """The study's folder and the member's name, from the member's folder.

    Raises:
        InputError: it does not lie where a study puts its members.
    """
    found = member.resolve()
    if found.parent.name == "members" and found.parent != found.parent.parent:
        return found.parents[1], found.name
    inside = sorted(folder.name for folder in (found / "members").glob("*") if folder.is_dir())
    do = f"give one of its members, like {member / 'members' / inside[0]}" if inside else "give STUDY/members/NAME"
    raise InputError("this is not the folder of a member", where=str(member), do=do)


def _contexts(wanted: list[str]) -> dict[str, NDArray[np.float32]]:
    """Readings by name of the cohort.

    Raises:
        InputError: not NAME=FILE, or no array of numbers.
    """
    import numpy as np

    found: dict[str, NDArray[np.float32]] = {}
    for text in wanted:
        name, _, path = text.partition("=")
        try:
            array = np.load(path, allow_pickle=False)
            found[name] = np.ascontiguousarray(array, dtype=np.float32)
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise InputError(
                f"no readings can be had from {path!r}: {error}", where="--context", do="give NAME=FILE.npy"
            ) from error
    return found


def _digest(parent: Path | None) -> str | None:
    from edgehone_agent.bundle import open_bundle

    if parent is None:
        return None
    with open_bundle(parent) as bundle:
        return bundle.digest


def _latency_us(text: str | None) -> float | None:
    from edgehone.units import parse_latency_us

    if text is None:
        return None
    found = float("inf") if text == _NO_BOUND else parse_latency_us(text)
    if not found:
        raise InputError("no model answers in no time", where="--max-latency", do="give a time above 0, or none")
    return found


def _source_date() -> str | None:
    """The moment that SOURCE_DATE_EPOCH names, where it is set. Source: reproducible-builds.org, SOURCE_DATE_EPOCH."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    try:
        return datetime.fromtimestamp(int(text), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{text[:40]!r} is no number of seconds", where="SOURCE_DATE_EPOCH", do="set a whole number, or unset it"
        ) from None


def _validation(study: StudyRecord, spec: str | None, progress: TerminalProgress) -> NDArray[np.float32]:
    """Validation readings of the study's task, (N, *input shape).

    Raises:
        InputError: the task is not built in and was not named, or has other data than the study.
        TaskError, DataError: the task or its data cannot be had.
    """
    from edgehone.bundle import said
    from edgehone.bundle.readings import validation_readings
    from edgehone.data.load import BUILTIN

    name = spec or said.text(study, "name")
    if spec is None and name not in BUILTIN.names():
        raise InputError(
            f"the validation data of {name!r} is needed, and no built-in task is called so",
            where="--task",
            do="give --task path/to/task.py, or --no-data for a bundle that cannot watch for drift",
        )
    progress.stage(f"opening the task {name}")

    def read(done: int, total: int) -> None:
        if not done:
            progress.stage("reading validation data", total)
        progress.at(done)

    return validation_readings(study, name, read)


def _inspect(args: argparse.Namespace) -> Outcome:
    from edgehone.units import format_latency, format_size
    from edgehone_agent.bundle import open_bundle

    with open_bundle(args.bundle) as bundle:
        said, digest, size_bytes = bundle.manifest, bundle.digest, bundle.size_bytes
    fit, bound = said.fit, "no bound on latency"
    if fit.latency_us is not None:
        bound = f"at most {format_latency(fit.latency_us)}"
    lines = [
        f"{said.task} {said.member}, version {said.version}, {said.kind}, made {said.created}",
        f"sha256 {digest}, {format_size(size_bytes)}",
        f"follows {said.parent}" if said.parent else "follows no other bundle",
        f"takes {_shape(said.input.shape)}{_unit(said.input.unit)}, answers {_shape(said.output.shape)}",
        f"recipe {said.recipe or 'not given'}",
        f"needs {' or '.join(fit.runtimes)}, {format_size(fit.memory_bytes)} of memory, {bound}",
        *(f"  {part.role:10} {format_size(part.size_bytes):>9}  {part.path}" for part in said.parts),
        *(f"  {name}: {_figure(figure)}" for name, figure in said.measured.items()),
    ]
    return {"sha256": digest, "size_bytes": size_bytes, "manifest": said.to_json()}, lines


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _unit(unit: str) -> str:
    return f" in {unit}" if unit else ""


def _figure(figure: dict[str, Any]) -> str:
    low, high = figure.get("low"), figure.get("high")
    interval = f" ({low:.6g} to {high:.6g})" if low is not None and high is not None else ""
    return f"{figure['value']:.6g}{interval}" + (", estimated" if figure.get("kind") == "estimated" else "")


def _verify(args: argparse.Namespace) -> Outcome:
    from edgehone.bundle.check import check

    found = check(args.bundle)
    lines = [f"{args.bundle}: every part is what the manifest says"]
    probes = {path: {"largest_difference": result.largest_difference} for path, result in found.items()}
    return {"ok": True, "probe": probes}, [*lines, *(f"  {path}: {result.text}" for path, result in found.items())]


def _diff(args: argparse.Namespace) -> Outcome:
    from edgehone.bundle.archive import write_output
    from edgehone.bundle.compare import compare
    from edgehone.units import format_size

    found = compare(args.old, args.new)
    pairs = [*found["fields"].items(), *found["measured"].items()]
    lines = [f"{name}: {_short(old)} → {_short(new)}" for name, (old, new) in pairs]
    lines += [f"{what}: {path}" for path, what in found["parts"].items()]
    lines = lines or ["the bundles say and hold the same"]
    if args.output is None:
        return found, lines
    from edgehone.bundle.delta import make_delta

    delta, size_bytes = make_delta(args.old, args.new), args.new.stat().st_size
    if delta is None:
        lines.append("no delta: it would be longer than 60 % of the new bundle; send that whole")
        return {**found, "delta": None}, lines
    write_output(args.output, delta)
    lines.append(f"{args.output}: {format_size(len(delta))}, {100 * len(delta) / size_bytes:.1f} % of the new bundle")
    return {**found, "delta": {"path": str(args.output), "size_bytes": len(delta)}}, lines


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."


_VERBS = {"build": _build, "inspect": _inspect, "verify": _verify, "diff": _diff}
