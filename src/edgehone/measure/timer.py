"""Who times files: this machine, or a node. A study asks a `Timer` and need not know which.

    timer: Timer = LocalTimer()
    found = timer.time({"candidate": content, "anchor": anchor}, rounds=21)
    ratio(found["candidate"], found["anchor"])

Figures of one call belong together, those of two calls do not. Figures of two timers may only be compared where their
fingerprints are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgehone.measure.machine import describe_machine, place
from edgehone.measure.remote import MeasuringNode
from edgehone_agent.errors import MissingExtraError
from edgehone_agent.measure.latency import LatencyResult, measure_latency
from edgehone_agent.runtimes import RUNTIMES
from edgehone_agent.wire.measuring import Candidate, MeasureRequest


class Timer(Protocol):
    """Times files that are not kept."""

    def time(
        self, files: Mapping[str, bytes], rounds: int, runtimes: Mapping[str, str] | None = None
    ) -> dict[str, LatencyResult]:
        """Latency of files against each other, interleaved.

        Args:
            files: name → content.
            rounds: 5 or more.
            runtimes: name → runtime, for files that are not of the timer's own.

        Raises:
            ModelFileError: the runtime refuses a file.
            InputError: no file, or fewer than 5 rounds.
            HostError: it cannot be measured now.
        """

    def runtimes(self) -> tuple[str, ...]:
        """What can be timed with."""

    def fingerprint(self) -> str:
        """Runtime, its version and the machine in words: "litert 2.3.0; Cortex-A72, 4 cores, aarch64"."""


@dataclass(frozen=True)
class LocalTimer:
    """This machine.

    Attributes:
        runtime: name of the runtime.
        threads: of the runtime.
    """

    runtime: str = "litert"
    threads: int = 1

    def time(
        self, files: Mapping[str, bytes], rounds: int, runtimes: Mapping[str, str] | None = None
    ) -> dict[str, LatencyResult]:
        """See `Timer.time`."""
        sessions = {}
        with tempfile.TemporaryDirectory() as folder:
            for index, (name, content) in enumerate(files.items()):
                runtime = RUNTIMES.get((runtimes or {}).get(name, self.runtime))
                path = Path(folder) / f"{index}{runtime.suffixes[0]}"
                path.write_bytes(content)
                sessions[name] = runtime.load(path, threads=self.threads)
            found = measure_latency(sessions, rounds=rounds)
            for session in sessions.values():
                session.close()
        return found

    def runtimes(self) -> tuple[str, ...]:
        """See `Timer.runtimes`."""
        return RUNTIMES.names()

    def fingerprint(self) -> str:
        """See `Timer.fingerprint`."""
        machine = describe_machine()
        return f"{self.runtime} {RUNTIMES.get(self.runtime).version()}; {place(machine)}, {machine['machine']}"


@dataclass(frozen=True)
class RemoteTimer:
    """A node, through its measuring service.

    Attributes:
        node: its service.
        runtime: name of the runtime there.
        threads: of the runtime.
        progress: see `MeasuringNode.measure`.
    """

    node: MeasuringNode
    runtime: str = "litert"
    threads: int = 1
    progress: Callable[[str], None] | None = None

    def time(
        self, files: Mapping[str, bytes], rounds: int, runtimes: Mapping[str, str] | None = None
    ) -> dict[str, LatencyResult]:
        """See `Timer.time`; raises besides what `MeasuringNode.measure` raises."""
        by = runtimes or {}
        candidates = tuple(Candidate(name, by.get(name, self.runtime), content) for name, content in files.items())
        return self.node.measure(MeasureRequest(candidates, rounds, self.threads), self.progress).latency

    def runtimes(self) -> tuple[str, ...]:
        """See `Timer.runtimes`; raises what `MeasuringNode.about` raises."""
        return tuple(self.node.about()["runtimes"])

    def fingerprint(self) -> str:
        """See `Timer.fingerprint`.

        Raises:
            MissingExtraError: the node has no such runtime.
            ConfigError, HostError: as `MeasuringNode.about`.
        """
        about = self.node.about()
        if self.runtime not in about["runtimes"]:
            raise MissingExtraError(
                f"the node has no runtime {self.runtime!r}",
                where=self.node.url,
                do=f'pip install "edgehone-agent[{self.runtime}]" there, and restart the service',
            )
        machine = about["machine"]
        return f"{self.runtime} {about['runtimes'][self.runtime]}; {place(machine)}, {machine['machine']}"
