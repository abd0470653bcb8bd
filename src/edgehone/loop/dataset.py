"""A dataset version: which examples a round learns from, with the label of each and where it comes from; and which
readings the drift references of cohorts are made from.

Rules:
- A version is a manifest: canonical JSON (keys sorted, no spaces), a blob, named by its digest. The same inputs give
  the same bytes: no random number is in it, and no time but that of the readings. docs/formats/dataset.md is the page
  for people.
- An example is held out by a hash of its reading's digest. It never changes sides between versions, and the same
  reading under two names is on one side.
- At most a share of the examples comes from one node or one annotator; people at the core are not capped.
- What was deleted is in no later version, and its blob is removed when no other sample has the same reading.
- Old data is not in here: `search.refresh` replays it from the task, at least one old example for three of these.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import and_, exists, or_, select, update

from edgehone.errors import InputError
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.trust import CORE, Label, Settled
from edgehone.records.blobs import Blobs
from edgehone.records.database import Database, insert_new
from edgehone.records.tables import dataset, feedback, sample
from edgehone_agent.errors import StateError

if TYPE_CHECKING:
    from edgehone.search.refresh import FieldData

SCHEMA = 1
LEARN, HELD = "learn", "held"


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        node, id: of the sample.
        blob: digest of the reading (.npy).
        label: number of the class, or the values.
        source: "field" when the model's own answer was confirmed, "feedback" when it was corrected.
        voices: who stands behind the label.
        senders: nodes that sent it, or "core".
        trust: in the label, 0 to 1.
        share, propensity: of the capture.
        provenance, licence: where the reading comes from, and what it may be used for.
        digest: of the bundle that had answered.
        split: "learn" or "held".
    """

    node: str
    id: str
    blob: str
    label: Label
    source: str
    voices: tuple[str, ...]
    senders: tuple[str, ...]
    trust: float
    share: str
    propensity: float
    provenance: str
    licence: str
    digest: str
    split: str


@dataclass(frozen=True)
class Readings:
    """What the nodes of a cohort see: readings without labels, for a drift reference.

    Attributes:
        from_s: no reading is older, by the core's clock; 0 for no such bound.
        blobs: digests of the readings (.npy), the oldest first.
    """

    from_s: float
    blobs: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """A dataset version.

    Attributes:
        task: its name.
        labels: names of the classes.
        examples: to learn from and to judge by.
        left_out: why → how many labelled samples are not among them.
        contexts: cohort → readings for its drift reference.
    """

    task: str
    labels: tuple[str, ...]
    examples: tuple[Example, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    contexts: Mapping[str, Readings] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        body = {
            "schema": SCHEMA, "task": self.task, "labels": self.labels, "left_out": dict(self.left_out),
            "examples": [asdict(one) for one in self.examples],
            "contexts": {name: asdict(one) for name, one in self.contexts.items()},
        }  # fmt: skip
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Read one back. Raises StateError."""
        try:
            body = json.loads(content)
            if body["schema"] > SCHEMA:
                raise ValueError(f"schema {body['schema']} is newer than this program")
            contexts = {
                name: Readings(float(one["from_s"]), tuple(one["blobs"]))
                for name, one in body.get("contexts", {}).items()
            }
            examples = tuple(map(_example, body["examples"]))
            return cls(body["task"], tuple(body["labels"]), examples, body["left_out"], contexts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"this manifest of a dataset cannot be read: {error}", where="dataset", do="update edgehone"
            ) from error

    def counts(self) -> dict[str, Any]:
        """For the table `dataset`: examples by source, by label and split; readings by cohort."""
        sources = Counter(one.source for one in self.examples)
        names = Counter(self._name(one.label) for one in self.examples if isinstance(one.label, int))
        splits = Counter(one.split for one in self.examples)
        replay = -(-splits[LEARN] // 3)  # the fewest that a refresh replays
        return {
            "field": sources["field"], "feedback": sources["feedback"], "replay": replay, "labels": dict(names),
            "splits": dict(splits), "left_out": dict(self.left_out),
            "contexts": {name: len(one.blobs) for name, one in self.contexts.items()},
        }  # fmt: skip

    def _name(self, label: int) -> str:
        return self.labels[label] if label < len(self.labels) else str(label)


def side(blob: str, held_share: float) -> str:
    """Whether a reading is learnt from or held out, by its digest alone."""
    draw = int.from_bytes(hashlib.sha256(f"held {blob}".encode()).digest()[:8]) / (1 << 64)
    return HELD if draw < held_share else LEARN


def compose(policy: LoopPolicy, labels: Sequence[str], settled: Iterable[Settled]) -> Manifest:
    """The manifest that labels give. Pure.

    Args:
        policy: of the task.
        labels: names of the classes.
        settled: labelled samples, see `trust.settle`.
    """
    left_out: Counter[str] = Counter()
    found = []
    for one in settled:
        if one.label is None or one.blob is None:
            left_out["no usable label" if one.blob is not None else "deleted"] += 1
        else:
            found.append((one.received_s, _from_settled(one, policy.held_share)))
    classes = Counter(one.label for _, one in found if isinstance(one.label, int))
    kept = [(at, one) for at, one in found if classes.get(one.label, policy.min_labels) >= policy.min_labels_per_class]  # type: ignore[arg-type]
    left_out["class with too few labels"] = len(found) - len(kept)
    newest = sorted(kept, key=lambda pair: (-pair[0], pair[1].node, pair[1].id))[: policy.most_examples]
    left_out["older than the newest"] = len(kept) - len(newest)
    examples = _unique([one for _, one in newest])
    left_out["the same reading twice"] = len(newest) - len(examples)
    capped = _cap(examples, "senders", policy.node_share)
    left_out["share of one node"] = len(examples) - len(capped)
    final = _cap(capped, "voices", policy.annotator_share)
    left_out["share of one annotator"] = len(capped) - len(final)
    final.sort(key=lambda one: (one.node, one.id))
    return Manifest(policy.task, tuple(labels), tuple(final), {name: n for name, n in sorted(left_out.items()) if n})


def store(db: Database, blobs: Blobs, manifest: Manifest, now_s: float) -> str:
    """Keep a version and return its digest; again is no error.

    Raises:
        StateError: blobs or database cannot be written.
    """
    digest = blobs.put(manifest.to_bytes())
    with db.write() as conn:
        newest = select(dataset.c.digest).where(dataset.c.task == manifest.task, dataset.c.digest != digest)
        parent = conn.execute(newest.order_by(dataset.c.created_s.desc()).limit(1)).scalar()
        row = {
            "digest": digest, "task": manifest.task, "created_s": now_s, "parent": parent, "counts": manifest.counts(),
        }  # fmt: skip
        insert_new(conn, dataset, [row], keys=["digest"])
    return digest


def read_manifest(blobs: Blobs, digest: str) -> Manifest:
    """A stored version. Raises StateError."""
    return Manifest.from_bytes(blobs.get(digest))


def load(blobs: Blobs, digest: str) -> FieldData:
    """The arrays of a version, as `search.refresh` takes them. Readings that were deleted since are left out.

    Raises:
        StateError: a blob is damaged, or nothing is left of a side.
        InputError: readings of different shapes.
    """
    from edgehone.search.refresh import FieldData

    manifest = read_manifest(blobs, digest)
    there = [one for one in manifest.examples if blobs.has(one.blob)]
    rows = [(one, _array(blobs.get(one.blob), f"{one.node} {one.id}")) for one in there]
    sides = {name: [row for row in rows if row[0].split == name] for name in (LEARN, HELD)}
    for name, mine in sides.items():
        if not mine:
            raise StateError(f"no example is left to {name}", where=f"dataset {digest[:12]}", do="begin a new round")
    shapes = {x.shape for _, x in rows}
    if len(shapes) > 1:
        raise InputError(f"the readings have {len(shapes)} different shapes", where=f"dataset {digest[:12]}")
    x, held_x = (np.stack([reading for _, reading in sides[name]]) for name in (LEARN, HELD))
    y, held_y = (np.array([one.label for one, _ in sides[name]]) for name in (LEARN, HELD))
    return FieldData(x, y, held_x, held_y, np.array([one.trust for one, _ in sides[LEARN]]), digest)


def load_contexts(
    blobs: Blobs, digest: str, shape: tuple[int, ...], *, least: int, most_bytes: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Readings (N, *shape) of each cohort, the oldest first, for the drift references of a bundle.

    Readings that were deleted since, and those of another shape, are left out. Where there are more than fit into the
    memory, every cohort gives up as many, evenly over time.

    Args:
        blobs: where the readings are.
        digest: of the dataset version.
        shape: of one reading.
        least: readings that a reference needs; a cohort with fewer is left out.
        most_bytes: of all together.

    Raises:
        StateError: a blob is damaged.
    """
    contexts = read_manifest(blobs, digest).contexts
    size_bytes = 4 * int(np.prod(shape)) * max(1, len(contexts))
    most = max(least, most_bytes // size_bytes)
    found = {}
    for name, one in sorted(contexts.items()):
        there = [blob for blob in one.blobs if blobs.has(blob)]
        if len(there) > most:
            there = [there[int(place)] for place in np.linspace(0, len(there) - 1, most)]
        arrays = (_array(blobs.get(blob), f"reading {blob[:12]}") for blob in there)
        rows = [array for array in arrays if array.shape == shape]
        if len(rows) >= least:
            found[name] = np.stack(rows)
    return found


def forget(db: Database, blobs: Blobs, task: str) -> int:
    """Let go of the readings that somebody wanted deleted; how many samples that were.

    Raises:
        StateError: blobs or database cannot be written.
    """
    wanted = exists().where(
        feedback.c.prediction == sample.c.id,
        feedback.c.kind == "delete",
        or_(
            feedback.c.node == sample.c.node,
            and_(feedback.c.node == CORE, feedback.c.content["node"].as_string() == sample.c.node),
        ),
    )
    query = select(sample.c.node, sample.c.id, sample.c.blob)
    with db.read() as conn:
        rows = conn.execute(query.where(sample.c.task == task, sample.c.blob.is_not(None), wanted)).all()
    if not rows:
        return 0
    with db.write() as conn:
        for row in rows:
            mine = and_(sample.c.node == row.node, sample.c.id == row.id)
            conn.execute(update(sample).where(mine).values(blob=None, size_bytes=0))
        gone = {row.blob for row in rows}
        shared = set(conn.execute(select(sample.c.blob).where(sample.c.blob.in_(gone))).scalars())
        for digest in sorted(gone - shared):
            blobs.delete(digest)
    return len(rows)


def _from_settled(one: Settled, held_share: float) -> Example:
    if one.label is None or one.blob is None:
        raise InputError("a sample without label or reading is no example", where=one.id)
    return Example(
        node=one.node, id=one.id, blob=one.blob, label=one.label,
        source="field" if one.is_wrong is False or one.kind == "confirm" else "feedback",
        voices=one.voices, senders=one.senders, trust=one.trust, share=one.share, propensity=one.propensity,
        provenance=one.source, licence=one.licence, digest=one.digest, split=side(one.blob, held_share),
    )  # fmt: skip


def _unique(examples: Sequence[Example]) -> list[Example]:
    """One example for each reading: the most trusted, then the first by name."""
    found: dict[str, Example] = {}
    for one in sorted(examples, key=lambda one: (-one.trust, one.node, one.id)):
        found.setdefault(one.blob, one)
    return list(found.values())


def _cap(examples: Sequence[Example], of: str, share: float) -> list[Example]:
    """Examples of which at most a share comes from one source; a hash chooses which stay.

    Where there are fewer sources than the share allows for, each may have an equal part.
    """
    ordered = sorted(examples, key=lambda one: hashlib.sha256(f"cap {one.blob}".encode()).digest())
    sources = Counter(name for one in ordered for name in getattr(one, of) if not _is_core(name))
    if not sources:
        return ordered
    free = sum(any(_is_core(name) for name in getattr(one, of)) for one in ordered)
    allowed = max(share, 1 / len(sources)) if not free else share
    most = len(ordered)
    while True:  # each turn takes examples away, and with them what a share is of
        taken: Counter[str] = Counter()
        kept = []
        for one in ordered:
            names = [name for name in getattr(one, of) if not _is_core(name)]
            if len(names) < len(getattr(one, of)) or all(taken[name] < allowed * most for name in names):
                taken.update(names)
                kept.append(one)
        if len(kept) >= most:
            return kept
        most = len(kept)
        ordered = kept


def _is_core(name: str) -> bool:
    return name == CORE or name.startswith("person:")


def _example(data: Mapping[str, Any]) -> Example:
    label = data["label"]
    found = Example(**data)
    return replace(
        found, label=tuple(label) if isinstance(label, list) else label, voices=tuple(data["voices"]),
        senders=tuple(data["senders"]),
    )  # fmt: skip


def _array(content: bytes, where: str) -> np.ndarray[Any, Any]:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise StateError("a reading cannot be read", where=where, do="restore a backup") from error
    return np.ascontiguousarray(found, dtype=np.float32)
