"""The calls of nodes, /v1/node/...: a plain ASGI application, because heartbeats are most of what a core does.

Rules (docs/formats/uplink.md is the protocol):
- Every call needs a certificate of ours that has not run out and is not revoked, checked at each request. But `enrol`,
  and `challenge` and `renew` for a node that was away until its certificate ran out (`fleet.returning`).
- A call is answered when what it brought is on disk.
- A node that calls too often, has too many uploads under way, or sends more than its share of a day, gets 429 with
  Retry-After, before its body is looked into. Others do not notice. What could not be kept does not count against its
  share.
- Uploads leave room on the disk, so that heartbeats go on where a fleet sends more than there is room for.
- All refusals of an enrolment token look the same and take the same time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgehone.fleet import enrol as enrolment
from edgehone.fleet import uploads
from edgehone.fleet.authority import DAY_S
from edgehone.fleet.heartbeat import Arrived
from edgehone.fleet.returning import Challenges, check_challenge, take_back
from edgehone.service.answers import Refused, answer, answer_error, read_body
from edgehone.service.core import Core
from edgehone.service.listen import PEER, Peer
from edgehone.service.rates import Buckets, origin_of
from edgehone.service.trouble import Room, Trouble
from edgehone_agent.errors import BundleError, BusyError, EdgehoneError, HostError, InputError, TrustError
from edgehone_agent.wire import returning, uplink
from edgehone_agent.wire.strict_json import read_json

PREFIX = "/v1/node/"
_ENROL_S = 0.05  # that every answer to an enrolment takes at least
_ENROLS_PER_S, _ENROLS_BURST = 2.0, 50.0  # from one address
_RETURNS_PER_S, _RETURNS_BURST = 20.0, 500.0  # a site's nodes come back together, from one address
_UPLOADS = {
    "evidence": uplink.MAX_EVIDENCE_BYTES,
    "samples": uplink.MAX_SAMPLES_BYTES,
    "feedback": uplink.MAX_FEEDBACK_BYTES,
}
_WAIT = "wait as long as Retry-After says"
_LOG = logging.getLogger("edgehone.core")

Call = Callable[[str, Mapping[str, Any], Any, Any], Awaitable[None]]


class NodeApi:
    """The application."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._enrols = Buckets(_ENROLS_PER_S, _ENROLS_BURST)
        self._returns = Buckets(_RETURNS_PER_S, _RETURNS_BURST)
        self._challenges = Challenges()
        limits = core.limits
        self._uploads: Counter[str] = Counter()  # node → uploads under way
        self._upload_bytes = 0
        self._room = Room(core.folders, share=limits.free_share, most_bytes=limits.free_bytes)
        self._full, self._blobs = Trouble("uploads"), Trouble("the blobs")
        self._calls: dict[str, tuple[str, Call]] = {
            "heartbeat": ("POST", self._heartbeat),
            "renew": ("POST", self._renew),
            "evidence": ("POST", self._evidence),
            "samples": ("POST", self._samples),
            "feedback": ("POST", self._feedback),
            "wake": ("GET", self._wake),
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """See ASGI 3."""
        name = scope["path"].removeprefix(PREFIX)
        try:
            if name == "enrol":
                await self._enrol(scope, receive, send)
                return
            if name == "challenge" or (name == "renew" and scope.get(PEER) is None):
                await self._return(name, scope, receive, send)
                return
            method, call = self._calls.get(name, ("", None))
            if call is None:
                raise Refused(404, "there is no such call")
            if scope["method"] != method:
                raise Refused(405, "this call takes another method", do=f"use {method}")
            node = self._node(scope)
            self._slow_down(node, name)
            with self._under_way(node, scope, _UPLOADS.get(name, 0)):
                await call(node, scope, receive, send)
        except Refused as refused:
            await answer_error(send, refused.error, status=refused.status, wait_s=refused.wait_s)
        except ConnectionResetError:  # nobody is left to answer
            return
        except EdgehoneError as error:
            await answer_error(send, error)

    def _node(self, scope: Mapping[str, Any]) -> str:
        """The id of the node that calls. Raises TrustError when its certificate is not good."""
        peer: Peer | None = scope.get(PEER)
        if peer is None:
            raise TrustError("this call needs the certificate of a node", do="enrol the node; speak TLS")
        if peer.not_after_s <= self._core.clock():
            raise TrustError("the certificate of this node has run out", do="enrol it with a new token")
        if self._core.standing.refuses(peer.node, peer.serial):
            raise TrustError("the certificate of this node is revoked", do="enrol it with a new token")
        return peer.node

    def _slow_down(self, node: str, name: str) -> None:
        buckets = self._core.beats if name == "heartbeat" else self._core.calls
        wait_s = buckets.take(node, self._core.clock())
        if wait_s:
            raise Refused(429, "this node calls too often", do=_WAIT, wait_s=wait_s)

    @contextmanager
    def _under_way(self, node: str, scope: Mapping[str, Any], most: int) -> Iterator[None]:
        """A block that has the body of an upload in memory; most = 0 for other calls. Raises Refused, BusyError."""
        if not most:
            yield
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        size = min(most, int(length)) if length.isdigit() else most
        limits = self._core.limits
        if self._uploads[node] >= limits.node_uploads:
            raise Refused(429, "this node has too many uploads under way", do=_WAIT, wait_s=1.0)
        if self._upload_bytes + size > limits.upload_bytes:
            raise BusyError("too many nodes send something up at once", do=_WAIT)
        self._uploads[node] += 1
        self._upload_bytes += size
        try:
            yield
        finally:
            self._upload_bytes -= size
            self._uploads[node] -= 1
            if not self._uploads[node]:
                del self._uploads[node]

    @contextmanager
    def _kept(self, node: str, size_bytes: int, rows: int) -> Iterator[None]:
        """A block that keeps what a node sends up, and counts it. Raises Refused beyond its share, StateError."""
        with self._full.watched():
            self._room.check()
        core, now_s = self._core, self._core.clock()
        wait_s = core.bytes_up.take(node, now_s, size_bytes)
        if not wait_s and (wait_s := core.rows_up.take(node, now_s, rows)):
            core.bytes_up.give(node, size_bytes)
        if wait_s:
            raise Refused(429, "this node has sent its share of a day", do=_WAIT, wait_s=wait_s)
        try:
            yield
        except HostError:  # the node will send it again
            core.bytes_up.give(node, size_bytes)
            core.rows_up.give(node, rows)
            raise

    async def _heartbeat(self, node: str, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        core = self._core
        beat = uplink.read(uplink.Heartbeat, await read_body(scope, receive, uplink.MAX_BEAT_BYTES))
        told: uplink.HeartbeatAnswer = await core.writer.batch(core.take_beats, Arrived(node, beat, core.clock()))
        await answer(send, 200, uplink.write(told))

    async def _enrol(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        core = self._core
        host = (scope.get("client") or ("", 0))[0]
        wait_s = self._enrols.take(origin_of(host), core.clock())
        if wait_s:
            raise Refused(429, "too many enrolments from this address", do=_WAIT, wait_s=wait_s)
        started_s = asyncio.get_running_loop().time()
        try:
            if scope["method"] != "POST":
                raise Refused(405, "this call takes another method", do="use POST")
            message = uplink.read(uplink.Enrol, await read_body(scope, receive, uplink.MAX_BEAT_BYTES))
            enrolled = await core.writer.run(
                lambda conn: enrolment.enrol(conn, core.authority, message, core.clock(), life_s=core.node_life_s)
            )
        finally:
            await asyncio.sleep(max(0.0, started_s + _ENROL_S - asyncio.get_running_loop().time()))
        _LOG.info("node %s is enrolled, %s", enrolled.node, enrolled.name)
        await answer(send, 200, uplink.write(enrolled))

    async def _renew(self, node: str, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        core = self._core
        message = uplink.read(uplink.Renew, await read_body(scope, receive, uplink.MAX_BEAT_BYTES))
        issued = await core.writer.run(
            lambda conn: enrolment.renew(conn, core.authority, node, message.csr, core.clock(), life_s=core.node_life_s)
        )
        await answer(send, 200, uplink.write(uplink.Renewed(issued.pem)))

    async def _return(self, name: str, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Both steps of coming back, without a certificate."""
        core, now_s = self._core, self._core.clock()
        wait_s = self._returns.take(origin_of((scope.get("client") or ("", 0))[0]), now_s)
        if wait_s:
            raise Refused(429, "too many nodes come back from this address", do=_WAIT, wait_s=wait_s)
        if scope["method"] != "POST":
            raise Refused(405, "this call takes another method", do="use POST")
        if scope["scheme"] != "https":
            raise TrustError("this call needs TLS", do="write https://")
        body = await read_body(scope, receive, uplink.MAX_BEAT_BYTES)
        if name == "challenge":
            await answer(send, 200, uplink.write(returning.Challenge(self._challenges.make(now_s), now_s)))
            return
        message = uplink.read(returning.Return, body)
        check_challenge(self._challenges, message.csr, now_s)
        issued = await core.writer.run(
            lambda conn: take_back(
                conn, core.authority, message, core.clock(), grace_s=core.place.settings.grace_days * DAY_S,
                life_s=core.node_life_s,
            )
        )  # fmt: skip
        if isinstance(issued, TrustError):
            raise issued
        _LOG.info("a node is back after its certificate had run out")
        await answer(send, 200, uplink.write(uplink.Renewed(issued.pem)))

    async def _evidence(self, node: str, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        core = self._core
        body = await read_body(scope, receive, uplink.MAX_EVIDENCE_BYTES)
        with self._kept(node, len(body), 1):
            told = await asyncio.to_thread(uplink.read, uplink.Evidence, body)
            await core.writer.run(lambda conn: uploads.take_evidence(conn, node, told, core.clock()))
        await answer(send, 204)

    async def _samples(self, node: str, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        core = self._core
        body = await read_body(scope, receive, uplink.MAX_SAMPLES_BYTES)
        lines = await asyncio.to_thread(_lines, body)
        with self._kept(node, len(body), len(lines)):
            readings = await asyncio.to_thread(_readings, lines)
            stored = await asyncio.to_thread(self._store, node, readings)
            taken = await core.writer.run(lambda conn: uploads.take_samples(conn, node, stored, core.clock()))
        await answer(send, 200, uplink.write(taken))

    def _store(self, node: str, readings: list[uploads.Reading]) -> list[tuple[uploads.Reading, str]]:
        """Put readings that are new into the blob store, where they are before their rows are."""
        with self._core.database.read() as conn:
            known = uploads.known_samples(conn, node, [reading.line.id for reading in readings])
        fresh = [reading for reading in readings if reading.line.id not in known]
        with self._blobs.watched():
            digests = self._core.blobs.put_many([one.content for one in fresh])
        blobs = dict(zip(map(id, fresh), digests, strict=True))
        return [(reading, blobs.get(id(reading), "")) for reading in readings]

    async def _feedback(self, node: str, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        core = self._core
        body = await read_body(scope, receive, uplink.MAX_FEEDBACK_BYTES)
        events = await asyncio.to_thread(_events, body)
        if len(events) > uplink.MAX_EVENTS:
            raise InputError(f"there are more than {uplink.MAX_EVENTS} events", do="send them in several calls")
        with self._kept(node, len(body), len(events)):
            taken = await core.writer.run(lambda conn: uploads.take_feedback(conn, node, events, core.clock()))
        await answer(send, 200, uplink.write(taken))

    async def _wake(self, node: str, scope: Mapping[str, Any], receive: Any, send: Any) -> None:  # noqa: ARG002
        await self._core.waker.stream(node, receive, send)


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]


def _events(body: bytes) -> Any:
    try:
        return uploads.read_events(read_json(body, "the message"))
    except BundleError as error:  # the class that the strict reader raises is about bundles
        raise InputError(error.what, where=error.where) from error


def _readings(lines: list[bytes]) -> list[uploads.Reading]:
    return [uploads.check_reading(uplink.read(uplink.SampleLine, line)) for line in lines]
