"""Write the golden database of this version of the schema. Run once for each version; never change what is there.

python tests/golden/make_core.py

core-1.sqlite    rows in every table, with odd texts, numbers and JSON
core-1.json      what a reader must find in it: table → columns, and rows as they are kept
"""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from edgehone.records import audit
from edgehone.records.database import open_database, sqlite_url
from edgehone.records.migrations import HEAD
from edgehone.records.tables import METADATA
from edgehone.testing.rows import everything, fill

FOLDER = Path(__file__).parent
NAME = f"core-{int(HEAD)}"


def main() -> None:
    """Write what is not there yet."""
    file = FOLDER / f"{NAME}.sqlite"
    if file.exists():
        raise SystemExit(f"{file} is there already: golden files are never written again")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / file.name
        with closing(open_database(sqlite_url(made), create=True)) as database:
            fill(database, random.Random(1), rows=4, longest=200)
            with database.write() as connection:  # the rows of `fill` leave gaps: the next id is known
                audit.record(connection, now_s=1764000000.0, actor="core", action="core.start", subject="core")
            rows = everything(database)
            with database.read() as connection:
                last = audit.page(connection, rows=1)[0].id
        with closing(sqlite3.connect(made)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")
        file.write_bytes(made.read_bytes())
    expected = {
        "revision": HEAD,
        "last_audit_id": last,
        "tables": {
            name: {"columns": [column.name for column in METADATA.tables[name].columns], "rows": found}
            for name, found in rows.items()
        },
    }
    (FOLDER / f"{NAME}.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
