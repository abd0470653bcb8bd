"""Databases that earlier versions wrote are opened for ever, and hold what they held."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgehone.records import audit
from edgehone.records.backup import copy
from edgehone.records.database import Database, open_database, sqlite_url
from edgehone.records.migrations import REVISIONS
from edgehone.records.tables import METADATA
from edgehone.testing.databases import new_url, server
from edgehone.testing.rows import everything

FOLDER = Path(__file__).parent
EXPECTED: dict[str, Any] = {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("core-*.json"))}


def held(database: Database, tables: dict[str, Any]) -> dict[str, Any]:
    """The rows now, in the columns that there were then."""
    now = everything(database)
    found = {}
    for name, then in tables.items():
        places = [list(METADATA.tables[name].columns.keys()).index(column) for column in then["columns"]]
        found[name] = {"columns": then["columns"], "rows": [[row[place] for place in places] for row in now[name]]}
    return found


def test_every_revision_has_its_database() -> None:
    wanted = [f"core-{int(revision)}" for revision in REVISIONS]
    assert wanted == list(EXPECTED) == sorted(file.stem for file in FOLDER.glob("core-*.sqlite"))
    assert [expected["revision"] for expected in EXPECTED.values()] == list(REVISIONS)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_opens_and_holds_what_it_held(name: str, tmp_path: Path) -> None:
    file = Path(shutil.copy(FOLDER / f"{name}.sqlite", tmp_path))
    with closing(open_database(sqlite_url(file))) as database:
        assert held(database, EXPECTED[name]["tables"]) == EXPECTED[name]["tables"]
        with database.write() as connection:
            audit.record(connection, now_s=1.0, actor="core", action="core.start", subject="core")
            assert audit.page(connection, rows=1)[0].id == EXPECTED[name]["last_audit_id"] + 1


@pytest.mark.parametrize("name", EXPECTED)
def test_it_moves_to_postgres(name: str, tmp_path: Path) -> None:
    file = Path(shutil.copy(FOLDER / f"{name}.sqlite", tmp_path))
    url = new_url("postgresql", tmp_path)
    with closing(open_database(sqlite_url(file))) as source, closing(open_database(url)) as target:
        copy(source, target)
        assert held(target, EXPECTED[name]["tables"]) == EXPECTED[name]["tables"]
    server().drop_database(url)
