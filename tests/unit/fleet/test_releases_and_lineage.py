"""The table of releases follows a real registry, and the lineage of a node is told from it by digest."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from edgehone.cli.main import main
from edgehone.errors import InputError
from edgehone.fleet.lineage import lineage
from edgehone.fleet.releases import load_offers, sync, trace
from edgehone.fleet.rollouts import abort, advance, start
from edgehone.records.database import Database, open_database
from edgehone.records.tables import dataset, decision, node, release, served
from edgehone.registry.create import create, load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.publish import publish
from edgehone.registry.store import Store
from edgehone.registry.upkeep import revoke_release
from edgehone.testing.bundles import Made, write_bundle
from edgehone.testing.databases import database, database_url, dialect  # noqa: F401  fixtures
from edgehone_agent.errors import RegistryError, TrustError

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ME = "person:ada"


class Registry:
    """A registry on disk with its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "registry")
        self.ring = KeyRing([folder / "keys"], Passphrases(["correct horse battery staple"]), scrypt_n=2)
        create(self.store, self.ring, ["gestures"], NOW)

    def publish(self, version: int, *members: str) -> list[Made]:
        made = [
            write_bundle(
                self.folder / f"{version}-{member}.bundle", version=version, member=member, seed=version * 9 + n
            )
            for n, member in enumerate(members)
        ]
        publish(self.store, self.ring, [one.path for one in made], [], NOW, anchor=self.anchor)
        return made

    @property
    def anchor(self) -> bytes | None:
        return load_anchor(self.ring)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_the_table_follows_the_registry(database: Database, registry: Registry) -> None:  # noqa: F811
    large, small = registry.publish(1, "large", "small")
    synced = sync(database, registry.store, 10.0, anchor=registry.anchor)
    with database.read() as conn:
        assert set(synced.added) == {large.digest, small.digest}
        rows = {row.digest: row for row in conn.execute(select(release))}
        row = rows[large.digest]
        assert (row.task, row.version, row.member, row.rank) == ("gestures", 1, "large", 0)
        assert rows[small.digest].rank == 1
        assert row.fit["runtimes"] == ["litert"]
        assert row.size_bytes == large.path.stat().st_size
        assert row.approved_by.startswith("key ")
    assert sync(database, registry.store, 11.0, anchor=registry.anchor) == type(synced)()
    registry.publish(2, "large")
    revoke_release(registry.store, registry.ring, "gestures", 1, NOW, anchor=registry.anchor)
    synced = sync(database, registry.store, 12.0, anchor=registry.anchor)
    with database.write() as conn:
        assert (len(synced.added), set(synced.revoked)) == (1, {large.digest, small.digest})
        offers, known = load_offers(conn)
        assert set(offers) == {("gestures", 2)}
        assert large.digest in known
        trace(conn, "gestures", 2, round="r7", approved_by="person:ada")
        with pytest.raises(InputError, match="no version 9 of 'gestures'"):
            trace(conn, "gestures", 9)


def test_a_registry_that_somebody_changed_changes_nothing(database: Database, registry: Registry) -> None:  # noqa: F811
    with pytest.raises(RegistryError):
        sync(database, Store(registry.folder / "nowhere"), 10.0)
    registry.publish(1, "large")
    stamp = registry.folder / "registry" / "metadata" / "timestamp.json"
    content = json.loads(stamp.read_text())
    content["signed"]["version"] += 1
    stamp.write_text(json.dumps(content))
    with pytest.raises(TrustError):
        sync(database, registry.store, 10.0, anchor=registry.anchor)
    with database.read() as conn:
        assert conn.execute(select(release)).all() == []


def live(database: Database, registry: Registry) -> list[Made]:  # noqa: F811
    """Three versions that answered on one node: the first was replaced, the second given up."""
    made = [*registry.publish(1, "large"), *registry.publish(2, "large"), *registry.publish(3, "large")]
    sync(database, registry.store, 10.0, anchor=registry.anchor)
    with database.write() as conn:
        conn.execute(
            insert(node).values(
                id="ab12", name="gate-3", tags={}, state="active", why="", facts={}, enrolled_s=1.0, status={}, beats=1
            )
        )
        conn.execute(
            insert(dataset).values(
                digest="d" * 64, task="gestures", created_s=5.0, counts={"field": 90, "feedback": 10, "replay": 30}
            )
        )
        conn.execute(
            insert(decision).values(
                task="gestures",
                time_s=6.0,
                trigger="risk",
                answer="retrain",
                why="errors rose",
                evidence={},
                round="r7",
            )
        )
        trace(conn, "gestures", 3, dataset="d" * 64, round="r7", approved_by="person:ada")
        stints = [(made[0], 100.0, 200.0, "first report"), (made[1], 200.0, 250.0, "swapped")]
        stints += [(made[0], 250.0, 300.0, "rolled back"), (made[2], 300.0, None, "swapped")]
        for one, from_s, to_s, why in stints:
            conn.execute(
                insert(served).values(
                    node="ab12", task="gestures", digest=one.digest, version=one.version, member="large",
                    from_s=from_s, to_s=to_s, why=why,
                )
            )  # fmt: skip
        conn.execute(
            insert(served).values(
                node="ab12", task="other", digest="e" * 64, version=1, member="x", from_s=50.0, to_s=60.0, why="swapped"
            )
        )
    start(database, "gestures", 2, now_s=190.0, actor=ME, id="first")
    abort(database, "first", now_s=240.0, actor=ME, why="crashes: 1 of 1")
    start(database, "gestures", 3, now_s=290.0, actor=ME, id="second")
    advance(database, 295.0)
    return made


def test_a_node_answers_where_its_bytes_come_from(database: Database, registry: Registry) -> None:  # noqa: F811
    made = live(database, registry)
    with database.read() as conn:
        by_name, by_id = lineage(conn, "gate-3"), lineage(conn, "ab12", task="gestures")
        with pytest.raises(InputError, match="there is no such node"):
            lineage(conn, "gate-4")
    assert [stint.digest for stint in by_id.stints] == [made[2].digest, made[0].digest, made[1].digest, made[0].digest]
    now, _, bad, first = by_id.stints
    assert (now.to_s, now.left, now.came) == (None, "", "swapped")
    assert (now.dataset, now.counts["feedback"], now.approved_by) == ("d" * 64, 10, "person:ada")
    assert (now.round, now.trigger, now.trigger_why) == ("r7", "risk", "errors rose")
    assert [one["id"] for one in now.rollouts] == ["second"]
    assert bad.left == "aborted: crashes: 1 of 1"
    assert first.left == "version 2 came with rollout first"
    assert first.approved_by.startswith("key ")
    strange = by_name.stints[-1]
    assert (strange.task, strange.known, strange.left) == ("other", False, "the node reports no model any more")


def test_the_command_line_shows_it(tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    core = tmp_path / "core"
    core.mkdir()
    (core / "core.toml").write_text("")
    opened = open_database(f"sqlite:///{core / 'core.sqlite'}", create=True)
    made = live(opened, registry)
    registry.publish(4, "large")
    sync(opened, registry.store, 400.0, anchor=registry.anchor)
    opened.close()
    assert main(["lineage", "gate-3", "--core", str(core)]) == 0
    shown = capsys.readouterr().out
    assert made[2].digest in shown and "person:ada" in shown and "field 90, feedback 10, replay 30" in shown
    assert main(["lineage", "gate-3", "--core", str(core), "--task", "gestures", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["stints"]) == 4
    fleet = ["fleet", "rollout"]
    place = ["--core", str(core)]
    assert main([*fleet, "start", "gestures", "4", *place]) == 4
    assert "is being rolled out there" in capsys.readouterr().err
    options = ["--supersede", "--canary", "10%", "--stages", "0.5,1", "--soak", "1min", "--flip-rate", "1%"]
    assert main([*fleet, "start", "gestures", "4", *place, *options, "--json"]) == 0
    begun = json.loads(capsys.readouterr().out)
    assert (begun["plan"]["stages"], begun["plan"]["canary_share"], begun["plan"]["soak_s"]) == ([0.5, 1.0], 0.1, 60.0)
    assert begun["plan"]["limits"]["flip_rate"] == 0.01
    for verb, word in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        assert main([*fleet, verb, begun["id"][:6], *place]) == 0
        assert word in capsys.readouterr().out
    assert main([*fleet, "status", begun["id"], *place]) == 0
    assert "abort" in capsys.readouterr().out
    assert main([*fleet, "status", *place]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    put = ["--put", "gestures/north", "--task", "gestures", "--tag", "site=north", "--channel", "canary"]
    assert main(["fleet", "cohorts", *place, *put]) == 0
    assert "site=north" in capsys.readouterr().out
    assert main(["fleet", "cohorts", *place, "--remove", "gestures/north", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cohorts": []}
    assert main(["fleet", "list", *place]) == 0
    assert "gate-3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fleet", "cohorts", "--put", "x"], "a cohort is for one task"),
        (["fleet", "cohorts", "--put", "x", "--task", "t", "--tag", "site"], "'site' is no tag"),
        (["fleet", "rollout", "start", "t", "1", "--canary", "many"], "'many' is no share"),
        (["fleet", "rollout", "start", "t", "1", "--stages", "0.5"], "do not rise to 1"),
        (["fleet", "rollout", "start", "t", "1"], "the registry has no version 1 of 't'"),
        (["fleet", "rollout", "abort", "x"], "no rollout has this id"),
        (["lineage", "nobody"], "there is no such node"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "core.toml").write_text("")
    open_database(f"sqlite:///{tmp_path / 'core.sqlite'}", create=True).close()
    assert main([*words, "--core", str(tmp_path)]) == 4
    assert says in capsys.readouterr().err
