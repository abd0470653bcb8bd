"""Nodes of a simulation at a core that was there before: over real sockets, with an operator's token and no other."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgehone.cli.main import main
from edgehone.errors import EdgehoneError
from edgehone.fleet.cohorts import put_cohort
from edgehone.records.database import open_database
from edgehone.service import people
from edgehone.service.limits import Limits
from edgehone.service.serving import serve
from edgehone.service.settings import Place
from edgehone.simulate.joined import Guests, open_people
from edgehone.simulate.nodes import LiveNode
from edgehone.testing.cores import make_core
from edgehone_agent.errors import ConfigError, InputError, RegistryError, TrustError
from edgehone_agent.uplink.enrol import enrol

WORLD = 'name = "w"\nabout = "a"\ntask = "digits"\n[[phases]]\nname = "p"\nrows = 5\n'


@dataclass
class Core:
    """A core that serves in a thread, and two tokens of its people."""

    place: Place
    operator: str
    viewer: str
    port: int = 0

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.place.authority / "ca.pem"

    def nodes(self) -> dict[str, Any]:
        """Name → node, as the core tells an operator."""
        found = open_people(self.address, self.operator).ask("GET", "/v1/nodes")
        return {one["name"]: one for one in found["nodes"]}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    place = make_core(tmp_path_factory.mktemp("joined") / "core", interval_s=0.5)
    database = open_database(place.database_url)
    with database.write() as conn:
        texts = [
            people.make_token(conn, "ada", "for tests", role, life_s=None, actor="core", now_s=time.time())
            for role in (people.OPERATOR, people.VIEWER)
        ]
    database.close()
    made, ready = Core(place, *texts), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def bound(addresses: tuple[tuple[str, int], ...]) -> None:
        made.port = addresses[0][1]
        ready.set()

    async def run() -> None:
        await serve(place, listen=["127.0.0.1:0"], limits=Limits(), ready=bound, stop=stop, dashboard=False)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(60)
    yield made
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    assert not thread.is_alive()
    loop.close()


def test_nodes_come_are_told_apart_and_go(core: Core, tmp_path: Path) -> None:
    with Guests(tmp_path / "out", open_people(core.address, core.operator)) as site:
        name, state = site.name(0), tmp_path / "state"
        token = site.make_token(name, {"site": "north"})
        enrol(state, token, site.address, tasks=("digits",))
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        site.nodes.append(LiveNode(name, "digits", state, process, tmp_path / "log"))
        node = core.nodes()[name]
        assert (node["state"], node["tags"]) == ("active", {"site": "north", "simulated": "yes"})
        assert site.news() == []  # that our own nodes come is no news
        database = open_database(core.place.database_url)
        with database.write() as conn:
            put_cohort(conn, f"digits/{site.run}", "digits", tags={}, actor="person:ada", now_s=time.time())
        database.close()
        assert [(one.what, one.words) for one in site.news()] == [
            ("core", f"cohort.put digits/{site.run} by person:ada")
        ]
        assert site.news() == []
        assert list(site.to_label(["a", "b", "c"])) == ["c", "b", "a"]
    node = core.nodes()[name]
    assert (node["state"], node["why"]) == ("revoked", f"the simulation {site.run} has ended")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_ways_to_a_core_on_this_machine(core: Core, scheme: str, host: str) -> None:
    found = open_people(f"{scheme}://{host}:{core.port}/", core.operator)
    assert found.context is None and found.address == f"https://{host}:{core.port}"


def test_with_its_ca_a_core_is_spoken_to_over_tls_alone(core: Core, tmp_path: Path) -> None:
    found = open_people(core.address, core.operator, ca=core.ca)
    assert found.context is not None and found.context.verify_mode == ssl.CERT_REQUIRED
    assert found.ask("GET", "/v1/me")["name"] == "ada"
    other = make_core(tmp_path / "other").authority / "ca.pem"
    with pytest.raises(TrustError, match="certificate is not accepted"):
        open_people(core.address, core.operator, ca=other)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"token": "eh_wrong"}, TrustError, "does not take this API token.*api-token NAME --role operator"),
        ({"token": "viewer"}, TrustError, "only an operator may enrol nodes.*--role operator"),
        ({"token": ""}, InputError, "this is no API token"),
        ({"token": "two words"}, InputError, "this is no API token"),
        ({"core": "https://127.0.0.1:9"}, RegistryError, "cannot be reached.*edgehone core start CORE"),
        ({"core": "https://core.example:7443"}, ConfigError, "on another machine.*--ca CORE/ca/ca.pem"),
        ({"core": "http://core.example:7443"}, ConfigError, "plain HTTP is for this machine"),
        ({"core": "127.0.0.1:7443"}, ConfigError, "no address of a core"),
        ({"ca": Path("/nowhere/ca.pem")}, InputError, "the CA cannot be read"),
        ({"ca": Path(__file__)}, InputError, "the CA cannot be read"),
    ],
)
def test_what_is_refused_says_what_to_do(
    change: dict[str, Any], kind: type[EdgehoneError], words: str, core: Core
) -> None:
    given = {"core": core.address, "token": core.operator, "ca": None, **change}
    token = core.viewer if given["token"] == "viewer" else given["token"]
    with pytest.raises(kind) as caught:
        open_people(given["core"], token, ca=given["ca"])
    assert caught.type is kind
    assert re.search(words, f"{caught.value.what} {caught.value.do}")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--core", "URL"], "there is no api-token-file"),
        (["--core", "URL", "--api-token-file", "TOKEN", "--fake"], "leave out --study and --fake"),
        (["--core", "URL", "--api-token-file", "TOKEN", "--study", "s"], "leave out --study and --fake"),
        (["--study", "s", "--api-token-file", "TOKEN"], "need --core"),
        (["--study", "s", "--ca", "TOKEN"], "need --core"),
        (["--core", "URL", "--api-token-file", "nothing"], "the token cannot be read"),
        (["--core", "URL", "--api-token-file", "TOKEN"], "does not take this API token"),
    ],
)
def test_arguments(more: list[str], words: str, core: Core, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token.txt").write_text("eh_wrong\n")
    (tmp_path / "world.toml").write_text(WORLD)
    given = {"URL": core.address, "TOKEN": str(tmp_path / "token.txt")}
    out = tmp_path / "out"
    assert main(["simulate", str(tmp_path / "world.toml"), "-o", str(out), *(given.get(one, one) for one in more)]) == 4
    assert words in capsys.readouterr().err
    assert not out.exists()
