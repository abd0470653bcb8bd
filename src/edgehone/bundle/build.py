"""Build a bundle from a member of a finished study: the same inputs give the same bytes.

    content = build(study, "w22-int8", folder, Wishes(version=1), x)

Parts, in this order: manifest, model files, card, golden probe, bill of materials, provenance, README. What is said of
the member comes from the study's record; what it answers comes from its own file, through the runtime that ships.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone.bundle import said
from edgehone.bundle.archive import Content, bundle_bytes, pack
from edgehone.bundle.card import MIN_ROWS, build_card
from edgehone.bundle.golden import choose, golden_probe, step_of
from edgehone.bundle.provenance import provenance
from edgehone.bundle.sbom import sbom
from edgehone.errors import InputError
from edgehone.record import MemberRecord, StudyRecord
from edgehone_agent.fast import FastModel
from edgehone_agent.model import find_runtime
from edgehone_agent.runtimes import RUNTIMES
from edgehone_agent.wire.card import Card
from edgehone_agent.wire.manifest import MAX_PART_BYTES, Fit, Manifest, Values
from edgehone_agent.wire.measurement import Measurement

__all__ = ["SLOWER", "Wishes", "build", "pack"]

SLOWER = 10.0
"""A node may take this many times the latency in the record before it refuses the bundle."""

_BATCH = 256
_CONTEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RERUN = "run the study again with --resume"
Array = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wishes:
    """What the person who builds decides.

    Attributes:
        version: of the release, from 1.
        parent: digest of the bundle that this one follows, or None.
        latency_us: slowest median that a node accepts; infinite for no bound, None for SLOWER times the record's.
        unit: of an input value.
        created: moment to write down, ISO 8601; None for the study's.
    """

    version: int = 1
    parent: str | None = None
    latency_us: float | None = None
    unit: str = ""
    created: str | None = None


@dataclass(frozen=True)
class _Seen:
    """What the member's preferred file made of readings: its answers, its embeddings, and its probe's inputs."""

    x: Array | None
    y: Array | None
    embedding: Array | None
    probe_x: Array
    probe_y: Array
    step: float


def build(
    study: StudyRecord, name: str, folder: Path, wishes: Wishes, x: Array | None = None,
    progress: Progress | None = None, contexts: Mapping[str, Array] | None = None,
) -> bytes:  # fmt: skip
    """The bytes of a bundle.

    Args:
        study: the record of the study.
        name: of the member.
        folder: of the study; its files are read there and compared with the record.
        wishes: version, parent, bounds.
        x: (N, *input shape) validation readings, raw. With 8 of them the probe asks readings, with 60 there is a card;
            without, the probe asks seeded noise and there is no card.
        progress: called with (readings answered, readings) as they go through the file.
        contexts: readings as some places see them, by the name of their cohort; each gets a card of its own.

    Raises:
        InputError: no such member, a file that is not what the record says, readings of another shape, or files of the
            member that do not answer alike.
        ModelFileError: a file that its runtime does not take.
        BundleError: a name or a figure of the study that a manifest may not hold.
    """
    member = _member(study, name)
    models = [_model(folder / file.path, file.sha256) for file in member.files]
    paths = {str(model.runtime): folder / file.path for model, file in zip(models, member.files, strict=True)}
    if not models:
        raise InputError("the member has no files", where=name, do=_RERUN)
    shape = said.input_shape(study)
    if x is not None and x.shape[1:] != shape:
        raise InputError(f"the readings are {x.shape[1:]}, the member takes {shape}", where=name)
    first, *others = paths
    seen = _ask(paths[first], first, x, shape, progress)
    own = _card(study, models[0], seen)
    contents = [*models, *([] if own is None else [Content("card.bin", "card", own.to_bytes())])]
    for context, readings in sorted((contexts or {}).items()):
        if seen.x is None:
            raise InputError("a card for a context goes beside the card of the task", where=context, do="give its data")
        contents.append(_context_card(study, models[0], context, readings, paths[first], first, own))
    probe = golden_probe(seen.probe_x, seen.probe_y, seen.step, {runtime: paths[runtime] for runtime in others})
    contents.append(Content("probe.npz", "probe", probe.to_bytes()))
    manifest = _manifest(study, member, wishes, models, seen)
    parts = [content.part() for content in models]
    contents.append(Content("sbom.json", "sbom", _text(sbom(study, manifest, parts))))
    contents.append(Content("provenance.json", "provenance", _text(provenance(study, member, manifest, parts))))
    readme = paths[first].with_name("README.md")
    if readme.is_file():
        contents.append(Content("README.md", "notes", readme.read_bytes()))
    return bundle_bytes(manifest, contents)


def _member(study: StudyRecord, name: str) -> MemberRecord:
    for member in study.members:
        if member.name == name:
            return member
    known = ", ".join(member.name for member in study.members) or "none"
    raise InputError(f"the study has no member {name!r}; it has: {known}", where=name, do="name one of these")


def _model(path: Path, sha256: str) -> Content:
    """A model file, as it was when it was measured."""
    try:
        size_bytes = path.stat().st_size
        content = path.read_bytes() if size_bytes <= MAX_PART_BYTES else b""
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), do=_RERUN) from error
    if size_bytes > MAX_PART_BYTES:
        raise InputError(f"has {size_bytes:,} bytes; a bundle takes {MAX_PART_BYTES:,}", where=str(path))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError("is not the file that was measured", where=str(path), do=_RERUN)
    runtime = find_runtime(path).name
    return Content(f"models/{runtime}/model{path.suffix}", "model", content, runtime)


def _ask(path: Path, runtime: str, x: Array | None, shape: tuple[int, ...], progress: Progress | None) -> _Seen:
    """Put the readings, and the probe's, through a file."""
    session = RUNTIMES.get(runtime).load(path)
    model = FastModel(session, tap=session.embedding is not None)
    with model:
        y, embedding = (None, None) if x is None else _answers(model, x, progress)
        probe_x = choose(x, session, shape, session.output.shape[1:])
        probe_y = model.predict(probe_x)
        return _Seen(x, y, embedding, probe_x, probe_y, step_of(session, probe_y))


def _answers(model: FastModel, x: Array, progress: Progress | None) -> tuple[Array, Array | None]:
    """Answers (N, ...) and embeddings (N, E) of readings; the latter None where the file gives none."""
    answers, embeddings = [], []
    for start in range(0, len(x), _BATCH):
        answers.append(model.predict(x[start : start + _BATCH]))
        embeddings.append(model.take_embedding())
        if progress is not None:
            progress(min(start + _BATCH, len(x)), len(x))
    known = [part.reshape(len(part), -1) for part in embeddings if part is not None]
    return np.concatenate(answers), np.concatenate(known) if known else None


def _context_card(
    study: StudyRecord, model: Content, context: str, x: Array, path: Path, runtime: str, own: Card | None
) -> Content:  # fmt: skip
    """The drift reference of one cohort.

    Its readings were drawn here and there: how alike neighbours are shows in the task's own card only.
    """
    if not _CONTEXT.fullmatch(context):
        raise InputError("this is no name of a cohort", where=context[:80], do="use letters, digits, '.', '_' and '-'")
    if x.shape[1:] != said.input_shape(study):
        raise InputError(f"the readings are {x.shape[1:]}, the member takes {said.input_shape(study)}", where=context)
    session = RUNTIMES.get(runtime).load(path)
    asked = FastModel(session, tap=session.embedding is not None)
    with asked:
        y, embedding = _answers(asked, x, None)
    card = build_card(
        x, y, embedding, kind=said.text(study, "kind"), model_digest=model.part().sha256, in_order=x.ndim == 2
    )
    if own is not None:
        card = replace(card, gap=max(card.gap, own.gap))
    return Content(f"cards/{context}.bin", "card", card.to_bytes())


def _card(study: StudyRecord, model: Content, seen: _Seen) -> Card | None:
    """The drift reference, where there are readings enough."""
    if seen.x is None or seen.y is None or len(seen.x) < MIN_ROWS:
        return None
    return build_card(
        seen.x, seen.y, seen.embedding, kind=said.text(study, "kind"), model_digest=model.part().sha256,
        in_order=seen.x.ndim == 2,  # rows of a table follow each other in time; pictures lie in any order
    )  # fmt: skip


def _manifest(study: StudyRecord, member: MemberRecord, wishes: Wishes, models: list[Content], seen: _Seen) -> Manifest:
    answer = seen.probe_y.shape[1:]
    return Manifest(
        task=said.text(study, "name").lower(),
        kind=said.text(study, "kind"),
        version=wishes.version,
        member=member.name,
        created=_in_utc(wishes.created or study.created),
        parts=(),
        input=Values("input", seen.probe_x.shape[1:], unit=wishes.unit, **_range(seen.x)),
        output=Values("output", answer, **_range(seen.y)),
        labels=_labels(study, answer),
        fit=Fit(
            runtimes=tuple(model.runtime for model in models if model.runtime),
            memory_bytes=int(member.memory.value if member.memory else 0) + max(len(model.body) for model in models),
            latency_us=_slowest(member, wishes),
        ),
        measured=_measured(study, member),
        recipe=" + ".join(str(step.get("technique", "unknown")) for step in member.recipe),
        dataset=said.digests(study),
        parent=wishes.parent,
    )  # fmt: skip


def _range(values: Array | None) -> dict[str, Any]:
    return {} if values is None else {"low": float(values.min()), "high": float(values.max())}


def _in_utc(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no date of ISO 8601", where="study.json: created", do=_RERUN) from None
    return moment.astimezone(UTC).isoformat() if moment.tzinfo else f"{text}+00:00"


def _labels(study: StudyRecord, answer: tuple[int, ...]) -> tuple[str, ...]:
    """One name for each score of a classification; scores that the task has no name for are numbered."""
    if said.text(study, "kind") != "classification":
        return ()
    named = said.labels(study)[: answer[-1]]
    return (*named, *(str(index) for index in range(len(named), answer[-1])))


def _slowest(member: MemberRecord, wishes: Wishes) -> float | None:
    """The bound on a node's median, in microseconds: as wished, or from the slowest runtime of the record."""
    if wishes.latency_us is not None:
        return wishes.latency_us if wishes.latency_us < float("inf") else None
    return SLOWER * max(record.latency.value for record in member.latency) if member.latency else None


def _measured(study: StudyRecord, member: MemberRecord) -> dict[str, Any]:
    """Figures of the record by name, each with its interval, method and place."""
    found = {f"latency_us {record.runtime}": record.latency for record in member.latency}
    found |= {f"{said.text(study, 'metric')} {split}": value for split, value in member.metric.items()}
    for split, drop in member.drop.items():
        found[f"drop_pp {split}"] = Measurement(
            drop.value_pp, "pp", drop.method, f"{split} split, against the original", drop.n, drop.low_pp, drop.high_pp
        )
    if member.memory:
        found["memory_bytes"] = member.memory
    if member.energy:
        found["energy_mj"] = member.energy
    return {name: figure.to_json() for name, figure in found.items()}


def _text(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
