"""Build a bundle from a member of a finished study: the same inputs give the same bytes.

    content = build(study, "w22-int8", folder, version=1, examples=(x, y))

Parts, in this order: manifest, model files, card, probe, SBOM, provenance, README. Time is taken from the study and not
from the clock, members are stored and not compressed, and their dates are the earliest that zip can hold.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehone.bundle.card import MIN_ROWS, build_card
from edgehone.bundle.provenance import provenance
from edgehone.bundle.sbom import sbom
from edgehone.errors import InputError
from edgehone.record import MemberRecord, StudyRecord
from edgehone_agent.model import Model, open_model
from edgehone_agent.probe import MIN_EXAMPLES, Probe
from edgehone_agent.wire.manifest import NAME, Fit, Manifest, Part, Role, Values

RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}
"""Format of a member's file → the runtime that it is for; the first is the preferred one."""

SLOWER = 10.0  # a node may take this many times the measured latency before it refuses the bundle
_PROBES = 16
_RANGE_SHARE = 0.02  # of the range of the answers: what runtimes may differ by, and other networks never hold
_EPOCH = (1980, 1, 1, 0, 0, 0)
_BATCH = 250
Array = NDArray[np.float32]
Content = tuple[str, Role, bytes, str | None]


@dataclass(frozen=True)
class Wishes:
    """What the person who builds decides.

    Attributes:
        version: of the release, from 1.
        parent: digest of the bundle that this one follows, or None.
        latency_us: slowest median that a node accepts; None takes SLOWER times the measured one.
        unit: of an input value.
    """

    version: int = 1
    parent: str | None = None
    latency_us: float | None = None
    unit: str = ""


def build(study: StudyRecord, name: str, folder: Path, wishes: Wishes, x: Array | None = None) -> bytes:
    """The bytes of a bundle.

    Args:
        study: the record of the study.
        name: of the member.
        folder: of the study; its files are read there and compared with the record.
        wishes: version, parent, bounds.
        x: (N, *input shape) validation readings. With them the bundle has a card and a probe of real readings; without,
            no card, and a probe of seeded noise.

    Raises:
        InputError: no such member, a file that is not what the record says, or readings of another shape.
    """
    member = _member(study, name)
    models = _models(member, folder)
    path = folder / member.files[[file.format for file in member.files].index("tflite")].path
    shape = tuple(study.task["input_shape"])[1:]  # without the batch
    if x is not None and x.shape[1:] != shape:
        raise InputError(f"the readings are {x.shape[1:]}, the member takes {shape}", where=name)
    probed = _noise(shape) if x is None or len(x) < MIN_EXAMPLES else x
    with open_model(path) as model:
        answers = _answers(model, probed)
    parts = [*models]
    if x is not None and len(x) >= MIN_ROWS:
        digest = hashlib.sha256(models[0][2]).hexdigest()
        order = len(shape) == 1  # rows of a table follow each other in time; pictures are sorted by who knows what
        card = build_card(x, answers, None, kind=study.task["kind"], model_digest=digest, in_order=order)
        parts.append(("card.bin", "card", card.to_bytes(), None))
    probe = _probe(probed, answers, folder, member)
    parts.append(("probe.npz", "probe", probe.to_bytes(), None))
    manifest = _manifest(study, member, wishes, parts, (probed if x is not None else None, answers))
    parts += _papers(study, member, manifest, folder)
    manifest = replace(manifest, parts=tuple(_part(*content) for content in parts))
    Manifest.from_json(json.loads(json.dumps(manifest.to_json())))  # what a node would refuse is refused here
    return pack(manifest, {path: body for path, _, body, _ in parts})


def pack(manifest: Manifest, contents: dict[str, bytes]) -> bytes:
    """The archive of a manifest and the parts that it lists."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        head = json.dumps(manifest.to_json(), indent=1, sort_keys=True).encode()
        for path, body in [(NAME, head), *((part.path, contents[part.path]) for part in manifest.parts)]:
            info = zipfile.ZipInfo(path, _EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, body)
    return buffer.getvalue()


def _part(path: str, role: Role, body: bytes, runtime: str | None) -> Part:
    return Part(path, role, hashlib.sha256(body).hexdigest(), len(body), runtime)


def _member(study: StudyRecord, name: str) -> MemberRecord:
    for member in study.members:
        if member.name == name:
            return member
    known = ", ".join(member.name for member in study.members) or "none"
    raise InputError(f"the study has no member {name!r}; it has: {known}", where=name, do="name one of these")


def _models(member: MemberRecord, folder: Path) -> list[Content]:
    """The member's files, the preferred runtime's first."""
    found: list[Content] = []
    for file in sorted(member.files, key=lambda file: list(RUNTIMES).index(file.format)):
        path = folder / file.path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror}", where=str(path), do="run the study again with --resume"
            ) from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise InputError(
                "is not the file that was measured", where=str(path), do="run the study again with --resume"
            )
        runtime = RUNTIMES[file.format]
        found.append((f"models/{runtime}/model{path.suffix}", "model", content, runtime))
    return found


def _noise(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(0).standard_normal((_PROBES, *shape), np.float32)


def _answers(model: Model, x: Array) -> Array:
    return np.concatenate([model.predict(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)])


def _probe(x: Array, y: Array, folder: Path, member: MemberRecord) -> Probe:
    """Some readings spread over all, with their answers, and what the other runtime may differ by."""
    chosen = np.linspace(0, len(x) - 1, min(_PROBES, len(x))).astype(int)
    apart = 0.0
    for file in member.files:
        if file.format != "tflite":
            with open_model(folder / file.path) as other:
                apart = max(apart, float(np.abs(other.predict(x[chosen]) - y[chosen]).max()))
    tolerance = 2 * apart + _RANGE_SHARE * max(float(np.ptp(y[chosen])), 1e-6)
    return Probe(np.ascontiguousarray(x[chosen]), np.ascontiguousarray(y[chosen]), tolerance)


def _manifest(
    study: StudyRecord, member: MemberRecord, wishes: Wishes, parts: list[Content], seen: tuple[Array | None, Array]
) -> Manifest:
    x, y = seen
    latency = member.latency[0].latency if member.latency else None
    measured_us = latency.value if latency and latency.kind == "measured" else None
    largest = max(len(body) for _, role, body, _ in parts if role == "model")
    return Manifest(
        task=study.task["name"],
        kind=study.task["kind"],
        version=wishes.version,
        member=member.name,
        created=study.created,
        parts=(),
        input=Values(
            "input",
            tuple(study.task["input_shape"])[1:],
            unit=wishes.unit,
            low=float(x.min()) if x is not None else None,
            high=float(x.max()) if x is not None else None,
        ),
        output=Values("output", y.shape[1:] or (1,)),
        labels=tuple(study.task.get("labels") or ()),
        fit=Fit(
            runtimes=tuple(runtime for _, _, _, runtime in parts if runtime),
            memory_bytes=int(member.memory.value if member.memory else 0) + largest,
            latency_us=wishes.latency_us or (SLOWER * measured_us if measured_us else None),
        ),
        measured=_measured(study, member),
        recipe=" + ".join(str(step.get("label") or step.get("technique", "")) for step in member.recipe)[:1000],
        dataset=dict(study.task.get("digest") or {}),
        parent=wishes.parent,
    )


def _measured(study: StudyRecord, member: MemberRecord) -> dict[str, object]:
    """Figures of the record by name, each with its interval, method and place."""
    figures: dict[str, object] = {f"latency_us {record.runtime}": record.latency.to_json() for record in member.latency}
    figures |= {f"{study.task['metric']} {split}": value.to_json() for split, value in member.metric.items()}
    for split, drop in member.drop.items():
        figures[f"drop_pp {split}"] = {
            "value": drop.value_pp, "low": drop.low_pp, "high": drop.high_pp, "n": drop.n, "method": drop.method,
        }  # fmt: skip
    if member.memory:
        figures["memory_bytes"] = member.memory.to_json()
    return figures


def _papers(study: StudyRecord, member: MemberRecord, manifest: Manifest, folder: Path) -> list[Content]:
    """Bill of materials, provenance, and the README that says how to run the member."""
    papers: list[Content] = [
        ("sbom.json", "sbom", _text(sbom(study, member, manifest)), None),
        ("provenance.json", "provenance", _text(provenance(study, member, manifest)), None),
    ]
    readme = folder / Path(member.files[0].path).parent / "README.md"
    if readme.is_file():
        papers.append(("README.md", "notes", readme.read_bytes(), None))
    return papers


def _text(value: dict[str, object]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
