"""Which families and task files a backup takes along, where a restored core finds them, and what it says is missing."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from sqlalchemy import insert, select

from edgehone.records.database import open_database
from edgehone.records.tables import setting
from edgehone.service.families import saved_files, settle_in
from edgehone.testing.databases import new_url


def test_places_are_found_saved_and_written_anew(tmp_path: Path) -> None:
    old, new, own = tmp_path / "old", tmp_path / "new", tmp_path / "home"
    promoted, first = old / "rounds" / "abc" / "study", own / "family"
    for folder in (promoted, first):
        folder.mkdir(parents=True)
        (folder / "study.json").write_text("{}")
    (own / "gas.py").write_text("task = None")
    values = {
        "loop:gas": {"study": str(first), "source": f"{own}/gas.py:task"},
        "loop:digits": {"study": str(own / "gone"), "source": "digits"},
        "loop:waves": {"study": str(own / "gone too"), "source": str(own / "waves.py")},
        "family:digits": {"study": str(promoted), "round": "abc", "version": 2},
        "told:gas": {"study": "not a policy"},
    }
    with closing(open_database(new_url("sqlite", tmp_path))) as database:
        with database.write() as conn:
            rows = [{"key": key, "value": value, "changed_s": 1.0} for key, value in values.items()]
            conn.execute(insert(setting), rows)
        files = saved_files(database, old / "rounds")
        assert sorted(files.values()) == sorted([promoted, first, own / "gas.py"])
        for name, path in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, new / name)
        assert [one.partition(":")[0] for one in settle_in(database, new)] == [
            str(own / "gone too"), str(own / "waves.py"),
        ]  # fmt: skip
        with database.read() as conn:
            now = {row.key: row.value for row in conn.execute(select(setting.c.key, setting.c.value))}
        assert now["family:digits"] == {**values["family:digits"], "study": str(new / "rounds" / "abc" / "study")}
        assert Path(now["loop:gas"]["study"]).parent == new / "families"
        assert now["loop:gas"]["source"] == f"{own}/gas.py:task"  # it is where it was, with what lies beside it
        assert now["told:gas"] == values["told:gas"]
        shutil.rmtree(own)
        settle_in(database, new)
        with database.read() as conn:
            source = conn.execute(select(setting.c.value).where(setting.c.key == "loop:gas")).scalar_one()["source"]
        assert source.startswith(str(new / "tasks")) and source.endswith("gas.py:task")
