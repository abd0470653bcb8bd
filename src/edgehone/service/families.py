"""What the loop needs besides rows and blobs: for a backup to take along, and to find again in a restored core.

    ROUNDS/ID/study      the family that a round made: where the next round of its task starts from
    ROUNDS/ID/...        what a round that has not ended has finished: the trained family, its bundles
    families/HASH-NAME   a family that lies elsewhere: what the policy of a task names until a round is promoted
    tasks/HASH-NAME.py   the file of a task

Rules:
- What is saved is found by the rows of the backup itself, so that both are of one moment.
- Where a restored thing lies is written into the rows that name it. A family is taken from the backup even where the
  old place is there: it may have changed since. A task's file is taken only where the old one is gone, because it may
  import or read what lies beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from edgehone.records.database import Database
from edgehone.records.tables import round as round_table
from edgehone.records.tables import setting

ROUNDS, FAMILIES, TASKS = "rounds", "families", "tasks"


def saved_files(database: Database, rounds: Path) -> dict[str, Path]:
    """Name in the backup → file or folder, for all that the loop needs to go on.

    Args:
        database: that the backup saves.
        rounds: the core's folder of rounds.
    """
    from edgehone.loop.worker import BUNDLES, STUDY, TRAINED

    found: dict[str, Path] = {}
    with database.read() as conn:
        studies, sources, unfinished = _named(conn)
    for text in studies:
        path = Path(text)
        if path.is_dir():
            found[f"{ROUNDS}/{path.parent.name}/{STUDY}" if _is_of_round(path) else f"{FAMILIES}/{_name(path)}"] = path
    for text in sources:
        file = _file_of(text)
        if file is not None and file.is_file():
            found[f"{TASKS}/{_name(file)}"] = file
    for id in unfinished:
        folder = rounds / id
        finished = [folder / TRAINED, folder / STUDY] if (folder / TRAINED).is_file() else []
        if (folder / BUNDLES).is_file():
            finished += [folder / BUNDLES, *sorted(folder.glob("*.bundle"))]
        found |= {f"{ROUNDS}/{id}/{path.name}": path for path in finished}
    return found


def settle_in(database: Database, folder: Path) -> list[str]:
    """Write the places of a restored core into the rows that name families and tasks; what is missing, in words.

    Args:
        database: that was restored.
        folder: of the core, with what the backup held.
    """
    with database.write() as conn:
        for row in conn.execute(select(setting.c.key, setting.c.value).where(_is_of_loop())).all():
            value = _moved(row.value, folder)
            if value != row.value:
                conn.execute(update(setting).where(setting.c.key == row.key).values(value=value))
        running = round_table.c.state.in_(("running", "waiting"))
        for row in conn.execute(select(round_table.c.id, round_table.c.content).where(running)).all():
            content = _moved(row.content, folder)
            if isinstance(content.get("policy"), Mapping):
                content["policy"] = _moved(content["policy"], folder)
            if content != row.content:
                conn.execute(update(round_table).where(round_table.c.id == row.id).values(content=content))
        studies, sources, _ = _named(conn)
    missing = [
        f"{text}: the family that the loop starts from is not there" for text in studies if not Path(text).is_dir()
    ]
    for text in sources:
        path = _file_of(text)
        if path is not None and not path.is_file():
            missing.append(f"{text}: the file of the task is not there")
    return missing


def _named(conn: Connection) -> tuple[list[str], list[str], list[str]]:
    """Families and sources that the loop starts from, and the ids of rounds that have not ended."""
    from edgehone.loop.policy import PREFIX
    from edgehone.loop.rounds import FAMILY

    values = {row.key: row.value for row in conn.execute(select(setting.c.key, setting.c.value).where(_is_of_loop()))}
    policies = {key.removeprefix(PREFIX): value for key, value in sorted(values.items()) if key.startswith(PREFIX)}
    studies = [str(values.get(FAMILY + task, value).get("study", "")) for task, value in policies.items()]
    sources = [str(value.get("source", "")) for value in policies.values()]
    running = round_table.c.state.in_(("running", "waiting"))
    rows = conn.execute(select(round_table.c.id, round_table.c.content).where(running).order_by(round_table.c.id)).all()
    studies += [str(row.content.get("study", "")) for row in rows]
    return _once(studies), _once(sources), [row.id for row in rows]


def _moved(value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A row's object with the new places of its family and its task's file."""
    moved = dict(value)
    if isinstance(study := value.get("study"), str):
        moved["study"] = next((str(one) for one in _places(Path(study), folder) if one.is_dir()), study)
    if isinstance(source := value.get("source"), str):
        path = _file_of(source)
        if path is not None and not path.is_file() and (kept := folder / TASKS / _name(path)).is_file():
            moved["source"] = f"{kept}:{source.rpartition(':')[2]}" if ".py:" in source else str(kept)
    return moved


def _places(study: Path, folder: Path) -> Iterator[Path]:
    if _is_of_round(study):
        yield folder / ROUNDS / study.parent.name / study.name
    yield folder / FAMILIES / _name(study)


def _is_of_round(study: Path) -> bool:
    from edgehone.loop.worker import STUDY

    return study.name == STUDY and study.parent.parent.name == ROUNDS


def _is_of_loop() -> Any:
    from edgehone.loop.policy import PREFIX
    from edgehone.loop.rounds import FAMILY

    return setting.c.key.startswith(PREFIX, autoescape=True) | setting.c.key.startswith(FAMILY, autoescape=True)


def _file_of(source: str) -> Path | None:
    """The file of a task's source, "FILE.py" or "FILE.py:NAME"; None for a built-in one."""
    path = source.rpartition(":")[0] if ".py:" in source else source
    return Path(path) if path.endswith(".py") else None


def _name(path: Path) -> str:
    """A name that keeps the ending, and that another path of the same name does not have."""
    return f"{sha256(str(path).encode()).hexdigest()[:8]}-{path.name}"


def _once(names: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]
