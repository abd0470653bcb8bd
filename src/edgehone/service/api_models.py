"""The JSON of the people's API: strict, so that a slip of the pen is refused instead of ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Role = Literal["viewer", "operator"]
State = Literal["active", "quarantined", "revoked"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}$")]
Words = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,300}$")]
Password = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
NewPassword = Annotated[str, StringConstraints(min_length=10, max_length=1000)]
Tags = Annotated[dict[Tag, Tag], Field(max_length=32, json_schema_extra={"additionalProperties": False})]
Life = Annotated[float, Field(ge=60, le=30 * 86_400)]
LongLife = Annotated[float, Field(ge=60, le=3650 * 86_400)]


class Told(BaseModel):
    """What the core answers."""

    model_config = ConfigDict(extra="forbid")


class Asked(BaseModel):
    """What a caller sends."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ErrorDetail(Told):
    """What was wrong, and what to do."""

    code: str
    what: str
    do: str


class ErrorTold(Told):
    """Every error."""

    error: ErrorDetail


class SignIn(Asked):
    """Name and password."""

    name: Name
    password: Password


class Me(Told):
    """Who is signed in; `csrf` goes into the header X-CSRF-Token of every changing request of a browser."""

    name: str
    role: Role
    csrf: str | None


class NodeTold(Told):
    """A node; see `fleet.nodes.Node`."""

    id: str
    name: str
    tags: dict[str, str]
    state: State
    why: str
    facts: dict[str, Any]
    enrolled_s: float
    seen_s: float | None
    status: dict[str, Any]
    beats: int


class Nodes(Told):
    """A page of nodes; `next` is the `after` of the next page, None on the last."""

    nodes: list[NodeTold]
    next: str | None


class SetState(Asked):
    """Quarantine a node, take it back, or revoke it."""

    state: State
    why: Words


class Describe(Asked):
    """Another name, other tags; what is left out stays."""

    name: Name | None = None
    tags: Tags | None = None


class MakeEnrolment(Asked):
    """A token that lets one node in."""

    name: Name | None = None
    tags: Tags = Field(default_factory=dict)
    life_s: Life = 3600.0


class EnrolmentMade(Told):
    """The token's text, shown once."""

    token: str
    expires_s: float


class MakeToken(Asked):
    """An API token of the one who asks."""

    name: Name
    role: Role
    life_s: LongLife | None = None


class TokenMade(Told):
    """The token's text, shown once."""

    id: str
    token: str


class TokenTold(Told):
    """An API token without its text."""

    id: str
    person: str
    name: str
    role: Role
    created_s: float
    expires_s: float | None
    revoked_s: float | None


class PersonTold(Told):
    """Somebody who may sign in, or might once."""

    name: str
    role: Role
    created_s: float
    disabled_s: float | None


class AddPerson(Asked):
    """Somebody new."""

    name: Name
    role: Role
    password: NewPassword


class AuditTold(Told):
    """One record."""

    id: int
    time_s: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class Status(Told):
    """How the core itself is."""

    version: str
    time_s: float
    for_s: float
    nodes: dict[str, int]
    online: int
    connections: int
    streams: int
    fingerprint: str
