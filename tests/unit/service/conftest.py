"""A core that serves in this process, on a port of its own, and nodes that speak to it over real sockets.

What asks the database for anything of its own runs on SQLite and on a real PostgreSQL: the names in `ON_BOTH`.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehone.service.limits import Limits
from edgehone.service.serving import serve
from edgehone.service.settings import Place
from edgehone.testing.cores import CoreNode, make_core, new_token
from edgehone.testing.databases import DIALECTS, database, database_url, dialect, new_url, server

__all__ = ["database", "database_url", "dialect"]  # fixtures: whatever takes a database runs on both kinds

ON_BOTH = frozenset(
    {
        "test_a_token_lets_one_node_in_once",
        "test_a_bad_request_does_not_cost_the_token",
        "test_a_heartbeat_is_remembered_and_bytes_that_answer_are_followed",
        "test_a_clone_shows",
        "test_a_revoked_node_is_out_and_a_quarantined_one_teaches_nothing",
        "test_uploads_count_once",
        "test_evidence_is_kept",
        "test_renewal",
        "test_it_comes_back_by_itself_and_a_copy_of_its_disk_does_not",
        "test_a_session_reads_and_changes_with_its_csrf_token_only",
        "test_api_tokens",
        "test_people_come_and_go_and_the_last_operator_stays",
        "test_an_operator_names_quarantines_and_revokes_a_node",
        "test_an_answer_counts_once_and_a_delete_takes_the_reading",
        "test_a_round_is_approved_by_an_operator_who_saw_it_and_ended_with_a_reason",
        "test_a_token_is_shown_once_and_lets_one_node_in",
        "test_an_empty_core_says_what_to_do_next",
    }
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each kind of database where that says something new."""
    if "core_dialect" in metafunc.fixturenames and metafunc.function.__name__ in ON_BOTH:
        metafunc.parametrize("core_dialect", DIALECTS)


class RunningCore:
    """A core in a thread."""

    def __init__(self, place: Place, limits: Limits, listen: str) -> None:
        self.place = place
        self._listen = listen
        self.port = 0
        self.error: BaseException | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._nodes: list[CoreNode] = []
        self._thread = threading.Thread(target=self._run, args=(limits,))
        self._thread.start()
        assert self._started.wait(30)
        if self.error is not None:
            raise self.error

    def _run(self, limits: Limits) -> None:
        try:
            asyncio.run(self._serve(limits))
        except BaseException as error:  # noqa: BLE001  shown by whoever started it
            self.error = error
        finally:
            self._started.set()

    async def _serve(self, limits: Limits) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        def ready(bound: tuple[tuple[str, int], ...]) -> None:
            self.port = bound[0][1]
            self._started.set()

        await serve(self.place, listen=[self._listen], limits=limits, ready=ready, stop=self._stop, dashboard=False)

    def node(self, folder: Path, **token: Any) -> CoreNode:
        """An enrolled node."""
        node = self.stranger(folder / f"node-{len(self._nodes)}")
        node.enrol(new_token(self.place, **token))
        return node

    def stranger(self, folder: Path) -> CoreNode:
        """A node that is not enrolled."""
        node = CoreNode(self.port, folder, self.place.authority / "ca.pem")
        self._nodes.append(node)
        return node

    def stop(self) -> None:
        """End it, as SIGTERM does."""
        for node in self._nodes:
            node.close()
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture
def core_dialect() -> str:
    """The kind of database that cores of a test have."""
    return "sqlite"


@pytest.fixture
def new_database(core_dialect: str, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """URLs of fresh databases for cores, as their setting `database` has them. Ask for it before what uses them."""
    made: list[str] = []

    def one() -> str:
        made.append("" if core_dialect == "sqlite" else new_url(core_dialect, tmp_path))
        return made[-1]

    yield one
    for url in filter(None, made):
        server().drop_database(url)


@pytest.fixture
def start(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Callable[..., RunningCore]]:
    """Start cores: `start()`, `start(limits=Limits(...))`, `start(place=...)`."""
    running: list[RunningCore] = []

    def one(
        place: Place | None = None, limits: Limits | None = None, listen: str = "127.0.0.1:0", **core: Any
    ) -> RunningCore:
        if place is None:
            place = make_core(tmp_path / f"core-{len(running)}", database=new_database(), **core)
        made = RunningCore(place, limits or Limits(), listen)
        running.append(made)
        return made

    yield one
    for core in running:
        core.stop()
    gc.collect()  # what was not closed is this test's fault
