"""Damaged input takes little memory, however much of it there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from edgehone.testing.faults import Tally, mutations

MUCH_BYTES = (200 << 20) + mutations(0) * 50_000  # hypothesis remembers what it tried


@pytest.fixture(autouse=True)
def _bounded_memory(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """For the tests whose names speak of mutations."""
    if "mutat" not in request.node.nodeid:
        yield
        return
    tally = Tally()
    yield
    record_property("grown_mb", tally.told()["grown_mb"])
    assert tally.grown_bytes < MUCH_BYTES, tally.told()
