"""Every record survives a backup and a copy to the other kind of database, bit for bit."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehone.records import audit
from edgehone.records.backup import backup, copy, restore
from edgehone.records.blobs import open_blobs
from edgehone.records.database import Database, open_database
from edgehone.testing.databases import DIALECTS, new_url, server
from edgehone.testing.rows import everything, fill

PAIRS = tuple(itertools.product(DIALECTS, DIALECTS))


@contextmanager
def fresh(dialect: str, folder: Path, *, empty: bool = False) -> Iterator[str]:
    """The URL of a database for one example."""
    url = new_url(dialect, folder, empty=empty)
    yield url
    if dialect == "postgresql":
        server().drop_database(url)


def next_audit_id(database: Database) -> int:
    """The id that the next deed gets."""
    with database.write() as connection:
        audit.record(connection, now_s=1.0, actor="core", action="core.start", subject="core")
        return audit.page(connection, rows=1)[0].id


@pytest.mark.parametrize(("source", "target"), PAIRS)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 6))
def test_a_copy_is_the_same_bit_for_bit(source: str, target: str, seed: int, rows: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        fresh(source, Path(name)) as a,
        fresh(target, Path(name)) as b,
        closing(open_database(a)) as old,
        closing(open_database(b)) as new,
    ):
        made = fill(old, random.Random(seed), rows=rows)
        assert copy(old, new) == made
        assert everything(new) == everything(old)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), contents=st.lists(st.binary(max_size=2000), max_size=20))
def test_a_backup_restores_the_same_bit_for_bit(source: str, target: str, seed: int, contents: list[bytes]) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        fresh(source, Path(name)) as a,
        fresh(target, Path(name), empty=True) as b,
    ):
        folder = Path(name)
        blobs, restored = open_blobs(str(folder / "blobs")), open_blobs("memory://")
        digests = blobs.put_many(contents)
        with closing(open_database(a)) as old:
            made = fill(old, random.Random(seed), rows=3)
            saved = backup(old, blobs, folder / "saved", now_s=5.0)
            before = everything(old)
        assert saved.rows == made
        assert restore(folder / "saved", b, restored) == saved
        with closing(open_database(b)) as new:
            assert everything(new) == before
        assert {digest: restored.get(digest) for digest in restored.digests()} == dict(
            zip(digests, contents, strict=True)
        )


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_ids_go_on_where_they_were(source: str, target: str, tmp_path: Path) -> None:
    with fresh(source, tmp_path) as a, fresh(target, tmp_path) as b, fresh(target, tmp_path, empty=True) as c:
        with closing(open_database(a)) as old, closing(open_database(b)) as new:
            for _ in range(3):
                last = next_audit_id(old)
            copy(old, new)
            assert next_audit_id(new) == last + 1
            blobs = open_blobs("memory://")
            backup(old, blobs, tmp_path / "saved", now_s=1.0)
        restore(tmp_path / "saved", c, blobs)
        with closing(open_database(c)) as restored:
            assert next_audit_id(restored) == last + 1
