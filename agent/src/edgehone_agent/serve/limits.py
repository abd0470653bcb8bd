"""How much serving takes on before it says no. Every bound is a field here, and every one has a test.

What the node can be made to hold is `buffered_bytes` for all requests together, and a few hundred kilobytes per
connection that the system buffers. Work that waits is bounded per task (`queue`), so that one slow model fills its own
queue and no other's, and over all tasks (`in_flight`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from edgehone_agent.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Bounds of serving.

    Attributes:
        connections: open at once over all listeners, TLS handshakes included; the next one gets 503.
        header_bytes: request line and headers; more gets 431.
        body_bytes: one request's body, also after decompression; more gets 413.
        json_bytes: the JSON part of an infer request; more gets 413. Python reads JSON while nothing else can run.
        buffered_bytes: bodies of all connections together; a request that would pass it gets 503.
        rows: examples in one infer request; more gets 400.
        queue: infer requests that wait for or run in one task's model; the next one gets 429.
        in_flight: the same over all tasks, with feedback; the next one gets 503.
        header_timeout_s: from a request's first byte to the end of its headers, else 408; also the TLS handshake.
        body_timeout_s: from the end of the headers to the end of the body, else 408.
        idle_timeout_s: without a request; the connection is closed.
        write_timeout_s: for a client to take an answer that the system cannot buffer; the connection is cut.
        drain_s: that running requests get to end when the server stops.
    """

    connections: int = 128
    header_bytes: int = 16 << 10
    body_bytes: int = 16 << 20
    json_bytes: int = 1 << 20
    buffered_bytes: int = 64 << 20
    rows: int = 1024
    queue: int = 32
    in_flight: int = 128
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    write_timeout_s: float = 30.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(
                    f"{value!r} is not a positive number", where=field.name, do="leave it out to take the default"
                )
            if field.type == "int" and not isinstance(value, int):
                raise ConfigError(f"{value!r} is not a whole number", where=field.name, do="write it without a dot")
