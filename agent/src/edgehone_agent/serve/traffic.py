"""Counts of serving itself: requests by route and status, their time, connections, work in flight."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

from edgehone_agent.serve.host import Metric

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Traffic:
    """Counters of one server. Used on its event loop alone."""

    def __init__(self) -> None:
        self.connections = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0

    def record(self, route: str, status: int, seconds: float | None = None) -> None:
        """Count one answered request. `route` is one of a few names; `seconds` is given for inference."""
        self._requests[route, status] += 1
        if seconds is not None:
            self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
            self._seconds += seconds

    def metrics(self, in_flight: int) -> tuple[Metric, ...]:
        """The counts as metrics."""
        requests = tuple(
            ({"route": route, "status": str(status)}, float(count))
            for (route, status), count in sorted(self._requests.items())
        )
        edges = [*(f"{edge:g}" for edge in BUCKETS_S), "+Inf"]
        times = [({"le": edge}, float(n)) for edge, n in zip(edges, accumulate(self._buckets), strict=True)]
        return (
            Metric("edgehone_http_requests_total", "counter", "Requests answered, by route and status.", requests),
            Metric(
                "edgehone_http_infer_seconds",
                "histogram",
                "Time from the last byte of an infer request to its answer.",
                (*times, ({"le": "sum"}, self._seconds)),
            ),
            Metric("edgehone_http_connections", "gauge", "Open connections.", (({}, float(self.connections)),)),
            Metric(
                "edgehone_http_in_flight",
                "gauge",
                "Requests that wait for a model or run in one.",
                (({}, float(in_flight)),),
            ),
        )
