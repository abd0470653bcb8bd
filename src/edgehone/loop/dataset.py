"""A dataset version: which examples a round learns from, with the label of each and where it comes from.

Rules:
- A version is a manifest: canonical JSON (keys sorted, no spaces), a blob, named by its digest. The same inputs give
  the same bytes: no time and no random number is in it. docs/formats/dataset.md is the page for people.
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
from dataclasses import asdict, dataclass, replace
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
class Manifest:
    """A dataset version; `left_out` says how many examples were left out and why."""

    task: str
    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    left_out: Mapping[str, int]

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        body = {
            "schema": SCHEMA, "task": self.task, "labels": self.labels, "left_out": dict(self.left_out),
            "examples": [asdict(one) for one in self.examples],
        }  # fmt: skip
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Read one back. Raises StateError."""
        try:
            body = json.loads(content)
            if body["schema"] > SCHEMA:
                raise ValueError(f"schema {body['schema']} is newer than this program")
            return cls(body["task"], tuple(body["labels"]), tuple(map(_example, body["examples"])), body["left_out"])
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"this manifest of a dataset cannot be read: {error}", where="dataset", do="update edgehone"
            ) from error

    def counts(self) -> dict[str, Any]:
        """For the table `dataset`: examples by source, and by label and split."""
        sources = Counter(one.source for one in self.examples)
        names = Counter(self._name(one.label) for one in self.examples if isinstance(one.label, int))
        splits = Counter(one.split for one in self.examples)
        replay = -(-splits[LEARN] // 3)  # the fewest that a refresh replays
        return {
            "field": sources["field"], "feedback": sources["feedback"], "replay": replay, "labels": dict(names),
            "splits": dict(splits), "left_out": dict(self.left_out),
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
    rows = [(one, _reading(blobs.get(one.blob), one)) for one in manifest.examples if blobs.has(one.blob)]
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


def _reading(content: bytes, one: Example) -> np.ndarray[Any, Any]:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise StateError("a reading cannot be read", where=f"{one.node} {one.id}", do="restore a backup") from error
    return np.ascontiguousarray(found, dtype=np.float32)
