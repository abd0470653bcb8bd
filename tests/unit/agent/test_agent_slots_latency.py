"""How long a bundle took when it was tried is known after a restart and after going back, where it is not measured."""

from __future__ import annotations

from pathlib import Path

from edgehone.testing.bundles import write_bundle
from edgehone_agent.slots import Slots


def started(folder: Path) -> Slots:
    """The slots of a process that has just started."""
    slots = Slots(folder / "tasks" / "gestures", "gestures")
    slots.start()
    return slots


def test_the_latency_outlives_a_restart_and_a_way_back(tmp_path: Path) -> None:
    slots, found = started(tmp_path), []
    for version in (1, 2):
        loaded = slots.install(write_bundle(tmp_path / f"{version}.bundle", version=version).path)
        slots.settle()
        found.append(loaded.latency_us)
        loaded.close()
    assert None not in found
    again = started(tmp_path)
    loaded = again.load()
    assert loaded is not None and loaded.latency_us == found[1]
    loaded.close()
    back = again.roll_back("a test")
    assert back.latency_us == found[0]
    back.close()
