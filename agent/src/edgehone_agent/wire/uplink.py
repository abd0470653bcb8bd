"""What a node and its core say to each other, one dataclass per message; docs/formats/uplink.md is the page for people.

    beat = read(Heartbeat, body)                 # bytes in: InputError says which field is wrong
    body = write(answer)                         # bytes out: compact JSON

Rules:
- A field that is not known is ignored, so that either side may be newer. One that is missing, of another type or out
  of range is refused with the name of the field; nothing is half read.
- Times are seconds since 1970 as the sender's clock has it. The core's clock decides wherever two disagree.
- The registry decides what may run on a node. `Desired` is online and unsigned: it only chooses among signed releases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self, TypeVar

from edgehone_agent.errors import BundleError, InputError
from edgehone_agent.wire._fields import Fields
from edgehone_agent.wire._uplink_task import (
    DIGEST,
    HIGHEST,
    MEMBER,
    TASK,
    Failed,
    Labelled,
    Learning,
    ShadowStatus,
    TaskStatus,
    flag,
    prose,
)
from edgehone_agent.wire.manifest import matching
from edgehone_agent.wire.strict_json import read_json

__all__ = [
    "Desired",
    "Enrol",
    "Enrolled",
    "Evidence",
    "Failed",
    "Heartbeat",
    "HeartbeatAnswer",
    "JoinToken",
    "Labelled",
    "Learning",
    "Renew",
    "Renewed",
    "SampleLine",
    "ShadowStatus",
    "Taken",
    "TaskStatus",
    "Wants",
    "read",
    "write",
]

SCHEMA = 1
MAX_BEAT_BYTES = 64 << 10
MAX_EVIDENCE_BYTES = 256 << 10
MAX_SAMPLES_BYTES = 8 << 20  # one call of samples
MAX_FEEDBACK_BYTES = 1 << 20  # one call of feedback
MAX_EVENTS = 1000  # in one call of feedback
MAX_TASKS = 64
MAX_TAGS = 32
_MAX_PEM = 16 << 10
_MAX_MEMBERS = 64
_MAX_VALUES = 4096

_NODE = re.compile(r"[0-9a-f]{8,32}")
_NONCE = re.compile(r"[0-9a-f]{16,64}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{20,64}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,199}")
_SHARES = ("informative", "stratified", "uniform")
_STATES = ("active", "quarantined")
_PEM_TEXT = re.compile(r"-----BEGIN [A-Z ]{1,40}-----[A-Za-z0-9+/=\s-]{1,16384}-----END [A-Z ]{1,40}-----\s*")


class Message(Protocol):
    """Every message."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read one back; fields it does not know are ignored. Raises BundleError."""


M = TypeVar("M", bound=Message)


def read(kind: type[M], body: bytes) -> M:
    """A message from the bytes of a request or an answer.

    Raises:
        InputError: no JSON that any two readers would agree on, or a field that does not fit.
    """
    try:
        return kind.from_json(read_json(body, "the message"))
    except BundleError as error:  # the class that the field reader raises is about bundles
        raise InputError(error.what, where=error.where, do="update the older side, or correct the message") from error


def write(message: Message) -> bytes:
    """The bytes of a message."""
    return json.dumps(message.to_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class JoinToken:
    """What a person gives a new node: `EH1-SECRET-FINGERPRINT`.

    Attributes:
        secret: good for one enrolment; the core keeps its SHA-256 only.
        fingerprint: SHA-256 of the core's CA certificate (DER), hex: the node trusts this CA and no other.
    """

    secret: str
    fingerprint: str

    def __str__(self) -> str:
        return f"EH1-{self.secret}-{self.fingerprint}"

    def __repr__(self) -> str:  # a token that reaches a log is a token that is lost
        return f"JoinToken(fingerprint={self.fingerprint!r})"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """A token from its text. Raises InputError, which does not repeat the text."""
        prefix, _, rest = text.strip().partition("-")
        secret, _, fingerprint = rest.rpartition("-")
        if prefix != "EH1" or not _SECRET.fullmatch(secret) or not DIGEST.fullmatch(fingerprint):
            raise InputError(
                "this is no enrolment token", where="token", do="copy the whole line that `edgehone core token` printed"
            )
        return cls(secret, fingerprint)


@dataclass(frozen=True)
class Enrol:
    """POST /v1/node/enrol: a node asks to be let in.

    Attributes:
        token: text of a `JoinToken`.
        csr: PKCS #10 request, PEM, of an EC P-256 key that the node made and keeps.
        name: what the node would like to be called; "" leaves it to the core.
        facts: machine, runtimes, memory_bytes, agent, for the core's list of nodes.
    """

    token: str
    csr: str
    name: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Enrol(name={self.name!r})"

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> Enrol:
        """See `Message`."""
        fields = _opened(data, "enrol")
        return cls(
            token=fields.text("token", longest=200),
            csr=_pem(fields, "csr"),
            name=fields.text("name", "", longest=100),
            facts=_facts(fields),
        )


@dataclass(frozen=True)
class Enrolled:
    """The answer.

    Attributes:
        node: the node's id.
        certificate, ca: PEM.
        tags: that the token brought.
        name: what the node is called from now on: what the token says, or else what the node asked for; "" from a core
            that does not tell.
    """

    node: str
    certificate: str
    ca: str
    tags: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> Enrolled:
        """See `Message`."""
        fields = _opened(data, "enrolled")
        return cls(
            matching(fields, "node", _NODE), _pem(fields, "certificate"), _pem(fields, "ca"), _texts(fields, "tags"),
            fields.text("name", "", longest=200),
        )  # fmt: skip


@dataclass(frozen=True)
class Renew:
    """POST /v1/node/renew: a new certificate for the node that asks, for a key that may be new."""

    csr: str

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        return {"schema": SCHEMA, "csr": self.csr}

    @classmethod
    def from_json(cls, data: Any) -> Renew:
        """See `Message`."""
        return cls(_pem(_opened(data, "renew"), "csr"))


@dataclass(frozen=True)
class Renewed:
    """The answer: a certificate (PEM). The old one goes on to work until it ends."""

    certificate: str

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        return {"schema": SCHEMA, "certificate": self.certificate}

    @classmethod
    def from_json(cls, data: Any) -> Renewed:
        """See `Message`."""
        return cls(_pem(_opened(data, "renewed"), "certificate"))


@dataclass(frozen=True)
class Heartbeat:
    """POST /v1/node/heartbeat.

    Attributes:
        nonce: of the last answer; None for the first after enrolment or after the node lost it.
        sent_s: the node's clock.
        agent: version of the agent.
        facts: machine, runtimes, memory_bytes.
        floors: task → lowest version that the node would still take; it never falls.
        tasks: task → how it fares.
        disk_free_bytes: where the node keeps its state; None where that is not known.
        flags: names of what is wrong on the node as a whole ("clock-back", "disk-full", "metadata-expired").
    """

    nonce: str | None
    sent_s: float
    agent: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, TaskStatus] = field(default_factory=dict)
    disk_free_bytes: int | None = None
    flags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        tasks = {name: status.to_json() for name, status in self.tasks.items()}
        return {"schema": SCHEMA, **self.__dict__, "tasks": tasks}

    @classmethod
    def from_json(cls, data: Any) -> Heartbeat:
        """See `Message`."""
        fields = _opened(data, "heartbeat")
        floors = Fields(fields.mapping("floors", {}, most=MAX_TASKS), "floors")
        tasks = fields.mapping("tasks", {}, most=MAX_TASKS)
        for name in (*floors.data, *tasks):
            _check_task(fields, name)
        free = fields.data.get("disk_free_bytes")
        return cls(
            nonce=None if fields.data.get("nonce") is None else matching(fields, "nonce", _NONCE),
            sent_s=_time(fields, "sent_s"),
            agent=fields.text("agent", longest=40),
            facts=_facts(fields),
            floors={name: floors.whole(name, 0, HIGHEST) for name in floors.data},
            tasks={name: TaskStatus.from_json(status, f"tasks: {name}") for name, status in tasks.items()},
            disk_free_bytes=None if free is None else fields.whole("disk_free_bytes", 0, HIGHEST),
            flags=fields.texts("flags", [], most=32),
        )


@dataclass(frozen=True)
class Desired:
    """What the core wants a node to run for a task.

    Attributes:
        version: of the signed release to serve; None for nothing, and None with a model running means: keep it.
        members: names of its members in order of preference for this node; empty for the node's own choice.
        shadow: version to answer beside it, unseen; None for none.
        rollout: id of the rollout that wants it; None when it is simply the cohort's version.
        serial: counts up with every change of the core's mind, so that an old answer is known as old.
    """

    version: int | None = None
    members: tuple[str, ...] = ()
    shadow: int | None = None
    rollout: str | None = None
    serial: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Desired:
        """Read one back; raises BundleError."""
        fields = Fields(data, "desired")
        members = fields.texts("members", [], most=_MAX_MEMBERS)
        if not all(map(MEMBER.fullmatch, members)):
            raise fields.refuse("members", "holds something that is no name of a member")
        return cls(
            version=_optional_version(fields, "version"),
            members=members,
            shadow=_optional_version(fields, "shadow"),
            rollout=fields.optional_text("rollout"),
            serial=fields.whole("serial", 0, HIGHEST, 0),
        )


@dataclass(frozen=True)
class Wants:
    """What the core would like to have of a task: the watch's evidence, and how many captured samples now."""

    evidence: bool = False
    samples: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Wants:
        """Read one back; raises BundleError."""
        fields = Fields(data, "wants")
        return cls(flag(fields, "evidence"), fields.whole("samples", 0, 1_000_000, 0))


@dataclass(frozen=True)
class HeartbeatAnswer:
    """What the core answers.

    Attributes:
        nonce: to be brought with the next heartbeat.
        time_s: the core's clock. A node whose own differs much says so in its flags and changes nothing by itself.
        interval_s: until the next heartbeat; the node adds jitter.
        node_state: "active", or "quarantined": go on serving and reporting, but nothing from here teaches a model.
        desired: task → what to run. A task that is not named here is left alone.
        policy: task → what the owner allows and sets there (JSON).
        wants: task → what to send up.
    """

    nonce: str
    time_s: float
    interval_s: float
    node_state: str = "active"
    desired: Mapping[str, Desired] = field(default_factory=dict)
    policy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    wants: Mapping[str, Wants] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        desired = {name: dict(value.__dict__) for name, value in self.desired.items()}
        wants = {name: dict(value.__dict__) for name, value in self.wants.items()}
        return {"schema": SCHEMA, **self.__dict__, "desired": desired, "wants": wants}

    @classmethod
    def from_json(cls, data: Any) -> HeartbeatAnswer:
        """See `Message`."""
        fields = _opened(data, "heartbeat answer")
        interval_s = fields.optional_number("interval_s")
        if interval_s is None or not 0 < interval_s <= 86_400:
            raise fields.refuse("interval_s", "is no time between 0 and a day")
        state = fields.text("node_state", "active", longest=20)
        if state not in _STATES:
            raise fields.refuse("node_state", f"is none of {', '.join(_STATES)}")
        maps = {name: fields.mapping(name, {}, most=MAX_TASKS) for name in ("desired", "policy", "wants")}
        for name in (name for found in maps.values() for name in found):
            _check_task(fields, name)
        if not all(isinstance(policy, dict) for policy in maps["policy"].values()):
            raise fields.refuse("policy", "holds something that is no object")
        return cls(
            nonce=matching(fields, "nonce", _NONCE),
            time_s=_time(fields, "time_s"),
            interval_s=interval_s,
            node_state=state,
            desired={name: Desired.from_json(value) for name, value in maps["desired"].items()},
            policy=maps["policy"],
            wants={name: Wants.from_json(value) for name, value in maps["wants"].items()},
        )


@dataclass(frozen=True)
class Evidence:
    """POST /v1/node/evidence: what the watch of a task found: `Watcher.evidence()` with `risk` beside it."""

    task: str
    digest: str
    content: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> Evidence:
        """See `Message`."""
        fields = _opened(data, "evidence")
        return cls(
            matching(fields, "task", TASK),
            matching(fields, "digest", DIGEST),
            fields.mapping("content", most=200),
        )


@dataclass(frozen=True)
class SampleLine:
    """One line of POST /v1/node/samples: a reading that was captured, with the answer that it got.

    Attributes:
        id: of the prediction.
        task, digest: which model answered.
        time_s: when, by the node's clock.
        share: of the capture that kept it: "informative", "stratified" or "uniform"; the last where it is in several.
        propensity: probability with which that share kept it; 0 where it is not known.
        informativeness: the score that it was kept by.
        stratum: such as the predicted class.
        answer: the values that were answered, flat.
        x: base64 of the raw reading as .npy, in torch order, one example.
    """

    id: str
    task: str
    digest: str
    time_s: float
    share: str
    propensity: float
    informativeness: float
    stratum: str
    answer: tuple[float, ...]
    x: str

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> SampleLine:
        """See `Message`."""
        fields = Fields(data, "sample")
        share = fields.text("share", longest=20)
        if share not in _SHARES:
            raise fields.refuse("share", f"is none of {', '.join(_SHARES)}")
        propensity = fields.optional_number("propensity") or 0.0
        if not 0 <= propensity <= 1:
            raise fields.refuse("propensity", "is no probability")
        answer = fields.items("answer", most=_MAX_VALUES)
        if not all(type(value) in (int, float) and abs(value) < 1e300 for value in answer):
            raise fields.refuse("answer", "holds something that is no finite number")
        return cls(
            id=matching(fields, "id", _ID),
            task=matching(fields, "task", TASK),
            digest=matching(fields, "digest", DIGEST),
            time_s=_time(fields, "time_s"),
            share=share,
            propensity=propensity,
            informativeness=fields.optional_number("informativeness") or 0.0,
            stratum=fields.text("stratum", "", longest=200),
            answer=tuple(map(float, answer)),
            x=fields.text("x", longest=MAX_SAMPLES_BYTES),
        )


@dataclass(frozen=True)
class Taken:
    """The answer to samples and feedback, sent when all of it is on disk: ids that are new, and ids that were known."""

    taken: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """See `Message`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Taken:
        """See `Message`."""
        fields = Fields(data, "taken")
        return cls(fields.texts("taken", [], most=100_000), fields.texts("known", [], most=100_000))


def _opened(data: Any, where: str) -> Fields:
    fields = Fields(data, where)
    if fields.whole("schema", 1, 1 << 16, SCHEMA) > SCHEMA:
        raise fields.refuse("schema", f"is {fields.data['schema']}, this version reads up to {SCHEMA}")
    return fields


def _check_task(fields: Fields, name: str) -> None:
    if not TASK.fullmatch(name):
        raise fields.refuse("tasks", f"name {name[:70]!r}, which is no name of a task")


def _facts(fields: Fields) -> dict[str, Any]:
    """Machine, runtimes, memory and agent of a node, those that it gives; what else it says of itself is left out."""
    inner = Fields(fields.mapping("facts", {}, most=32), "facts")
    memory = inner.data.get("memory_bytes")
    found: dict[str, Any] = {
        "machine": prose(inner, "machine"),
        "runtimes": list(inner.texts("runtimes", [], most=32)),
        "memory_bytes": None if memory is None else inner.whole("memory_bytes", 0, 1 << 50),
        "agent": inner.text("agent", "", longest=40),
    }
    return {name: value for name, value in found.items() if name in inner.data}


def _optional_version(fields: Fields, name: str) -> int | None:
    return None if fields.data.get(name) is None else fields.whole(name, 1, HIGHEST)


def _pem(fields: Fields, name: str) -> str:
    value = fields.data.get(name)
    if not isinstance(value, str) or len(value) > _MAX_PEM or not _PEM_TEXT.fullmatch(value):
        raise fields.refuse(name, "is no PEM text")
    return value


def _texts(fields: Fields, name: str) -> dict[str, str]:
    found = fields.mapping(name, {}, most=MAX_TAGS)
    inner = Fields(found, name)
    return {key: inner.text(key, longest=200) for key in found}


def _time(fields: Fields, name: str) -> float:
    value = fields.optional_number(name)
    if value is None or not 0 <= value < 1e11:
        raise fields.refuse(name, "is no time in seconds since 1970")
    return value
