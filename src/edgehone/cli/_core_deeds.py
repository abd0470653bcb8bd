"""What the verbs of `edgehone core` do, besides serving: each returns an object for programs and lines for people."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgehone.errors import InputError, OutputFolderError
from edgehone.fleet.authority import Authority
from edgehone.records.database import Database, open_database
from edgehone.service import people
from edgehone.service.settings import FILE, LISTEN, Place, Settings, load_place, write_settings
from edgehone.units import format_size
from edgehone_agent.errors import StateError

Outcome = tuple[dict[str, Any], list[str]]

_PASSPHRASE = "EDGEHONE_PASSPHRASE"
_HOUR_S = 3600.0
_LOCAL = ("localhost", "127.0.0.1", "::1")


def init(args: argparse.Namespace) -> Outcome:
    """Make a core. What is made last is `core.toml`: a folder without one is no core, and is made anew.

    Raises:
        EdgehoneError: the folder holds something, or a setting, task or password cannot be used.
    """
    from edgehone.records.blobs import open_blobs
    from edgehone.registry.create import create
    from edgehone.registry.keys import KeyRing, Passphrases
    from edgehone.registry.store import Store

    folder: Path = args.core
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputFolderError("the folder is not empty", where=str(folder), do="choose a new folder for the core")
    password, is_made = _password(args, f"password for {args.operator}: ")
    hashed = people.hash_password(password)
    passphrase = _first_line(args.passphrase_file) if args.passphrase_file else os.environ.get(_PASSPHRASE, "")
    made_passphrase = "" if passphrase else secrets.token_urlsafe(18)
    settings = Settings(
        listen=tuple(args.listen) or (LISTEN,), names=tuple(dict.fromkeys((*args.name, *_LOCAL))),
        database=args.database, blobs=args.blobs,
    )  # fmt: skip
    now_s = time.time()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = Place(folder.resolve(), settings)
    authority = Authority.make(place.authority, now_s)
    authority.serve_as(settings.names, now_s)
    ring = KeyRing([place.keys], Passphrases([passphrase or made_passphrase]))
    root = create(
        Store(place.registry), ring, args.task, datetime.fromtimestamp(now_s, UTC),
        approve=args.approve, online_plain=True,
    )  # fmt: skip
    open_blobs(place.blobs_url)
    database = open_database(place.database_url, create=True)
    try:
        with database.write() as conn:
            people.add_person(conn, args.operator, people.OPERATOR, hashed, actor="core", now_s=now_s)
    finally:
        database.close()
    write_settings(place)
    result = {
        "core": str(folder), "fingerprint": authority.fingerprint, "root": str(root), "operator": args.operator,
        "password": password if is_made else None, "passphrase": made_passphrase or None,
    }  # fmt: skip
    lines = [f"core {folder} is ready; start it with: edgehone core start {folder}"]
    if is_made:
        lines.append(f"{args.operator} signs in with the password {password} - it is not shown again")
    if made_passphrase:
        lines.append(f"the registry's keys have the passphrase {made_passphrase} - it is not shown again")
    return result, [*lines, f"keep copies of {place.keys} and {place.authority} where nobody else can read them"]


def status(args: argparse.Namespace) -> Outcome:
    """What there is to know from the folder alone."""
    from edgehone.fleet.nodes import list_nodes

    place = load_place(args.core)
    authority = Authority.load(place.authority)
    now_s = time.time()
    with _opened(place) as database, database.read() as conn:
        found = list_nodes(conn, limit=1_000_000)
    horizon_s = now_s - 3 * place.settings.interval_s
    nodes: list[dict[str, Any]] = [
        {
            "id": node.id, "name": node.name, "state": node.state, "tags": dict(node.tags), "seen_s": node.seen_s,
            "online": node.seen_s is not None and node.seen_s > horizon_s,
            "tasks": {task: told.get("version") for task, told in node.status.items()},
        }
        for node in found
    ]  # fmt: skip
    is_running = _is_running(place)
    result = {
        "core": str(place.folder), "running": is_running, "fingerprint": authority.fingerprint, "nodes": nodes,
    }  # fmt: skip
    states = Counter(node["state"] for node in nodes)
    online = sum(bool(node["online"]) for node in nodes)
    lines = [
        f"core {place.folder} is {'running' if is_running else 'not running'}",
        f"listens on {', '.join(place.settings.listen)}",
        f"CA fingerprint {authority.fingerprint}",
        f"{len(nodes)} nodes, {online} online" + "".join(f", {n} {state}" for state, n in sorted(states.items())),
    ]
    for node in nodes[:200]:
        versions = ", ".join(f"{task} {version or '-'}" for task, version in sorted(node["tasks"].items())) or "-"
        seen = "never" if node["seen_s"] is None else f"{max(0.0, now_s - node['seen_s']):.0f} s ago"
        lines.append(f"  {node['id']}  {node['name']:24} {node['state']:12} seen {seen:>12}  {versions}")
    return result, lines


def token(args: argparse.Namespace) -> Outcome:
    """Make an enrolment token."""
    from edgehone.fleet.enrol import make_token

    place = load_place(args.core)
    tags = dict(_pair(text) for text in args.tag)
    authority = Authority.load(place.authority)
    now_s = time.time()
    with _opened(place) as database, database.write() as conn:
        made = make_token(
            conn, authority, now_s=now_s, actor=_actor(), name=args.node, tags=tags, life_s=args.hours * _HOUR_S
        )
    return {"token": str(made), "expires_s": now_s + args.hours * _HOUR_S}, [str(made)]


def person(args: argparse.Namespace) -> Outcome:
    """Add, disable or list people, change a password, make an API token."""
    place = load_place(args.core)
    now_s, actor = time.time(), _actor()
    with _opened(place) as database:
        if args.deed == "list":
            with database.read() as conn:
                rows = [dict(row._mapping) for row in people.list_people(conn)]
            return {"people": rows}, [
                f"{row['name']:24} {row['role']}{'' if row['disabled_s'] is None else ' (disabled)'}" for row in rows
            ]
        if not args.person:
            raise InputError("whose?", where="person", do=f"write: edgehone core person CORE {args.deed} NAME")
        if args.deed == "disable":
            with database.write() as conn:
                people.disable_person(conn, args.person, actor=actor, now_s=now_s)
            return {"person": args.person}, [f"{args.person} may sign in no more"]
        if args.deed == "api-token":
            with database.write() as conn:
                text = people.make_token(
                    conn, args.person, "command line", args.role, life_s=None, actor=actor, now_s=now_s
                )
            return {"person": args.person, "token": text}, [text]
        password, is_made = _password(args, f"password for {args.person}: ")
        hashed = people.hash_password(password)
        with database.write() as conn:
            if args.deed == "add":
                people.add_person(conn, args.person, args.role, hashed, actor=actor, now_s=now_s)
            else:
                people.set_password(conn, args.person, hashed, actor=actor, now_s=now_s)
    shown = [f"the password is {password} - it is not shown again"] if is_made else []
    result = {"person": args.person, "password": password if is_made else None}
    return result, [f"{args.person} may sign in", *shown]


def backup(args: argparse.Namespace) -> Outcome:
    """Save everything of a core, which may be running."""
    from edgehone.records.backup import backup as save
    from edgehone.records.blobs import open_blobs
    from edgehone.service.families import ROUNDS, saved_files

    place = load_place(args.core)
    files = {"ca": place.authority, "keys": place.keys, "registry": place.registry, FILE: place.folder / FILE}
    with _opened(place) as database:
        made = save(
            database, open_blobs(place.blobs_url), args.to, now_s=time.time(), files=files,
            also=lambda saved: saved_files(saved, place.folder / ROUNDS),
        )  # fmt: skip
    rows = sum(made.rows.values())
    lines = [
        f"{rows} rows and {made.blobs} blobs ({format_size(made.blob_bytes)}) are in {args.to}",
        "it holds the keys of this core: keep it where nobody else can read it",
    ]
    if made.lost:
        lines.append(f"{len(made.lost)} blobs were missing or damaged in the core already")
    return {"backup": str(args.to), "rows": rows, "blobs": made.blobs, "lost": list(made.lost)}, lines


def restore(args: argparse.Namespace) -> Outcome:
    """Make a core from a backup. Its settings come last, so that a folder that was cut off is no core."""
    from edgehone.records.backup import restore as bring_back
    from edgehone.records.backup_manifest import FILES
    from edgehone.records.blobs import open_blobs
    from edgehone.service.families import settle_in

    folder: Path = args.core
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputFolderError("the folder is not empty", where=str(folder), do="choose a new folder for the core")
    saved = load_place(args.backup / FILES).settings
    settings = replace(saved, database=args.database or saved.database, blobs=args.blobs or saved.blobs)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = Place(folder.resolve(), settings)
    made = bring_back(args.backup, place.database_url, open_blobs(place.blobs_url), files=_folders(place))
    with _opened(place) as database:
        missing = settle_in(database, place.folder)
    write_settings(place)
    rows = sum(made.rows.values())
    result = {
        "core": str(folder), "rows": rows, "blobs": made.blobs, "lost": list(made.lost), "missing": missing,
    }  # fmt: skip
    return result, [
        f"core {folder} has {rows} rows and {made.blobs} blobs",
        "do not run it beside the core that it was copied from: nodes would meet both",
        *missing,
    ]


def clean(args: argparse.Namespace) -> Outcome:
    """Remove blobs that nothing needs. A running core does so by itself, and is left alone.

    Raises:
        StateError: the core runs, or its database or blobs cannot be used.
    """
    from edgehone.records.blobs import open_blobs
    from edgehone.service.upkeep import clean as remove
    from edgehone_agent.lock import take_lock

    place = load_place(args.core)
    lock = take_lock(place.folder / "run")
    if lock is None:
        raise StateError("the core runs: it cleans up once a day", where=str(place.folder), do="stop it, or wait")
    try:
        with _opened(place) as database:
            removed = remove(database, open_blobs(place.blobs_url), now_s=time.time(), actor=_actor())
    finally:
        lock.release()
    line = f"{removed.blobs} blobs that nothing needs are gone ({format_size(removed.size_bytes)})"
    return {"core": str(place.folder), "removed": removed.blobs, "bytes": removed.size_bytes}, [line]


def _folders(place: Place) -> dict[str, Path]:
    """What a backup holds besides rows and blobs, and where it goes."""
    from edgehone.service.families import FAMILIES, ROUNDS, TASKS

    loop = {name: place.folder / name for name in (ROUNDS, FAMILIES, TASKS)}
    return {"ca": place.authority, "keys": place.keys, "registry": place.registry, **loop}


@contextmanager
def _opened(place: Place) -> Iterator[Database]:
    database = open_database(place.database_url)
    try:
        yield database
    finally:
        database.close()


def _is_running(place: Place) -> bool:
    from edgehone_agent.lock import take_lock

    lock = take_lock(place.folder / "run")
    if lock is None:
        return True
    lock.release()
    return False


def _actor() -> str:
    """Whoever may read the folder is an operator; the audit names the system's user."""
    return f"person:{getpass.getuser()} (command line)"[:200]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise InputError(f"{text!r} is no tag", where="--tag", do="write KEY=VALUE, like site=north")
    return key, value


def _password(args: argparse.Namespace, prompt: str) -> tuple[str, bool]:
    """A password, and whether it was made up here."""
    if args.password_file is not None:
        return _first_line(args.password_file), False
    if sys.stdin.isatty():
        typed = getpass.getpass(prompt)
        if typed:
            if typed != getpass.getpass("the same once more: "):
                raise InputError("the two passwords differ", do="start again")
            return typed, False
    return secrets.token_urlsafe(15), True


def _first_line(path: Path) -> str:
    try:
        line = path.read_text().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the file cannot be read", where=str(path), do="give a text file") from error
    if not line:
        raise InputError("the first line of the file is empty", where=str(path), do="write it there")
    return line


VERBS = {
    "init": init,
    "status": status,
    "token": token,
    "person": person,
    "backup": backup,
    "restore": restore,
    "clean": clean,
}
