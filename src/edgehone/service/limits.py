"""How much the core takes on before it says no. Every bound is a field here, and every one has a test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        connections: open at once; the next one is closed.
        strangers: of them, those without a certificate of ours, handshakes included; the next one is closed.
        strangers_of_one: of those, from one address, unless it is this machine's own; the next one is closed.
        node_connections: that one node has open; the next one is closed.
        head_bytes: request line and headers; more gets 431. A body's framing and trailers may have about as much.
        body_bytes: a body of the people's API; more gets 413. Node calls have their own bounds in `wire.uplink`.
        handshake_s: from a connection's beginning to the end of its TLS handshake.
        head_s: from there, or from a request's first byte, to the end of the headers.
        body_s: from the end of the headers to the end of the body.
        idle_s: between two requests of one connection.
        write_s: for a client to take what the system cannot buffer.
        drain_s: that running requests get to end when the core stops.
        beats_per_s, beats_burst: heartbeats that one node may send; more gets 429.
        calls_per_s, calls_burst: every other call of one node; more gets 429.
        node_uploads: that one node may have under way; more gets 429.
        upload_bytes: of uploads that all nodes may have under way; more gets 503.
        node_bytes_per_day: samples and feedback that one node may send up; more gets 429.
        node_rows_per_day: the same in rows.
        free_share, free_bytes: of a disk of the core that uploads leave free, whichever is less; more gets 503.
        sign_ins, sign_in_window_s: failures per name and per address before they have to wait.
        sign_ins_at_once: passwords that are looked at or wait for it; more gets 429.
    """

    connections: int = 19_000
    strangers: int = 1_000
    strangers_of_one: int = 500
    node_connections: int = 32
    head_bytes: int = 16 << 10
    body_bytes: int = 1 << 20
    handshake_s: float = 10.0
    head_s: float = 10.0
    body_s: float = 120.0
    idle_s: float = 120.0
    write_s: float = 30.0
    drain_s: float = 5.0
    beats_per_s: float = 1.0
    beats_burst: float = 10.0
    calls_per_s: float = 5.0
    calls_burst: float = 50.0
    node_uploads: int = 4
    upload_bytes: int = 512 << 20
    node_bytes_per_day: int = 256 << 20
    node_rows_per_day: int = 100_000
    free_share: float = 0.05
    free_bytes: int = 256 << 20
    sign_ins: int = 10
    sign_in_window_s: float = 300.0
    sign_ins_at_once: int = 16
