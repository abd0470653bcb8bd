"""Token buckets: how often somebody may do something. Kept in memory; a restart forgives."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


def origin_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 address, which one machine has all of."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.version == 4:
        return str(mapped)
    return str(ipaddress.ip_network((mapped, 64), strict=False))


@dataclass
class _Level:
    left: float
    at_s: float


class Buckets:
    """One bucket per name, filled at a constant rate.

    Args:
        per_s: units that flow in per second.
        burst: units that a full bucket holds.
        most: names that are remembered; the fullest, which forgive nothing by being forgotten, go first.
    """

    def __init__(self, per_s: float, burst: float, most: int = 200_000) -> None:
        self._per_s, self._burst, self._most = per_s, burst, most
        self._levels: dict[str, _Level] = {}

    def take(self, name: str, now_s: float, units: float = 1.0) -> float:
        """Take units out, and return 0; or take nothing, and return the seconds until there are enough.

        More than a bucket holds is never there: such a request is told to wait until the bucket is full.
        """
        level = self._levels.get(name)
        if level is None:
            if len(self._levels) >= self._most:
                self._forget(now_s)
            level = self._levels[name] = _Level(self._burst, now_s)
        level.left = min(self._burst, level.left + max(0.0, now_s - level.at_s) * self._per_s)
        level.at_s = now_s
        if level.left >= units:
            level.left -= units
            return 0.0
        return max((min(units, self._burst) - level.left) / self._per_s, 0.001)

    def give(self, name: str, units: float = 1.0) -> None:
        """Put units back that were not needed."""
        if name in self._levels:
            self._levels[name].left = min(self._burst, self._levels[name].left + units)

    def _forget(self, now_s: float) -> None:
        full_s = self._burst / self._per_s
        self._levels = {name: level for name, level in self._levels.items() if now_s - level.at_s < full_s}
        for name in list(self._levels)[: max(0, len(self._levels) - self._most // 2)]:
            del self._levels[name]
