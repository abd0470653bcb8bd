"""`edgehone registry`: make a registry, publish signed releases to it, and keep its keys and dates in order."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone.cli import _registry_deltas
from edgehone.errors import InputError

if TYPE_CHECKING:
    from edgehone.registry.keys import KeyRing, Passphrases
    from edgehone.registry.names import Expiry
    from edgehone.registry.objects import Objects

help = "publish signed releases as static files that any web server can host"
examples = (
    "edgehone registry init my-registry --task digits",
    "edgehone registry init my-registry --task digits --approve auto --online-key-plain --expire timestamp=2",
    "edgehone registry init s3://models/registry --task digits",
    "edgehone registry add-task my-registry speech",
    "edgehone registry publish my-registry w22-int8.bundle w14-int8.bundle --delta from-3.delta",
    "edgehone registry publish my-registry w22-int8.bundle --deltas 5 --delta-time 30s",
    "edgehone registry publish my-registry w22-int8.bundle --prepare to-sign",
    "edgehone registry sign to-sign --key task-digits-3f2a9c1e77d0.pem",
    "edgehone registry publish my-registry --complete to-sign",
    "edgehone registry refresh my-registry",
    "edgehone registry refresh my-registry --also digits",
    "edgehone registry rotate-key my-registry online",
    "edgehone registry rotate-key my-registry root --keys my-registry.keys --keys /media/safe/keys",
    "edgehone registry revoke my-registry --release digits 4",
    "edgehone registry revoke my-registry --key 3f2a9c1e77d0",
    "edgehone registry prune my-registry",
    "edgehone registry status my-registry --json",
)

_VARIABLE = "EDGEHONE_PASSPHRASE"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, *, signs: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog="examples:\n"
            + "\n".join(f"  {line}" for line in examples if line.startswith(f"edgehone registry {name}")),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name != "sign":
            added.add_argument(
                "registry", metavar="REGISTRY", help="the folder that a web server hosts, or s3://, gs://, az://..."
            )
            added.add_argument(
                "--keys", type=Path, action="append", metavar="FOLDER",
                help="where keys are (default REGISTRY.keys); may be repeated, new keys go to the first",
            )  # fmt: skip
        if signs:
            added.add_argument(
                "--passphrase-file", type=Path, action="append", default=[], metavar="FILE",
                help=f"file whose first line is a passphrase; may be repeated (default: {_VARIABLE}, or ask)",
            )  # fmt: skip
        added.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        return added

    init = verb("init", "make the keys and the first metadata of a registry")
    init.add_argument(
        "--task", action="append", default=[], metavar="NAME", help="a task to publish for; may be repeated"
    )
    _approve(init)
    init.add_argument(
        "--online-key-plain", action="store_true", help="leave the online key unencrypted: refresh needs nobody"
    )
    _expire(init)
    add = verb("add-task", "let the registry take releases of one more task")
    add.add_argument("task", metavar="TASK", help="its name")
    _approve(add)
    publish = verb("publish", "release one version of a task")
    bundles = publish.add_argument(
        "bundle", type=Path, nargs="+", default=[], metavar="BUNDLE", help="members of one version, preferred first"
    )
    bundles.required = False  # "*" would end at the first option, and --complete takes none
    _registry_deltas.configure(publish)
    publish.add_argument(
        "--approve", choices=("manual", "auto"), default="manual", help="auto: never ask for a passphrase"
    )
    step = publish.add_mutually_exclusive_group()
    step.add_argument("--prepare", type=Path, metavar="FOLDER", help="upload, and write what is to be signed here")
    step.add_argument("--complete", type=Path, metavar="FOLDER", help="publish what was prepared and signed")
    sign = verb("sign", "sign a prepared release; needs no registry and no network")
    sign.add_argument("folder", type=Path, metavar="FOLDER", help="what `publish --prepare` wrote")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the key of the task")
    rotate = verb("rotate-key", "replace the keys of a role")
    rotate.add_argument("role", metavar="ROLE", help="root, targets, online, or the name of a task")
    rotate.add_argument("--key", metavar="ID", help="replace only this key; the first digits of its id")
    rotate.add_argument("--approve", choices=("manual", "auto"), help="of a task: who signs from now on")
    rotate.add_argument(
        "--online-key-plain", action="store_true", default=None, help="leave the new online key unencrypted"
    )
    revoke = verb("revoke", "take a release back, or a key that somebody else may have")
    what = revoke.add_mutually_exclusive_group(required=True)
    what.add_argument("--release", nargs=2, metavar=("TASK", "VERSION"), help="take this version out")
    what.add_argument("--key", metavar="ID", help="replace this key wherever it signs; the first digits of its id")
    refresh = verb("refresh", "sign timestamp and snapshot again before they expire")
    refresh.add_argument(
        "--also", action="append", default=[], metavar="ROLE", help="also root, targets, or a task; may be repeated"
    )
    _expire(refresh)
    prune = verb("prune", "remove files that no node needs any more", signs=False)
    prune.add_argument(
        "--keep-days", type=float, metavar="DAYS", help="keep what was replaced since (default: life of a snapshot)"
    )
    verb("status", "who signed what, what is live, what expires when, what is wrong", signs=False)


def run(args: argparse.Namespace) -> int:
    """Run one verb and print what it did."""
    result, lines = _VERBS[args.verb](args)
    print(json.dumps(result) if args.json else "\n".join(lines))
    return 0


Outcome = tuple[dict[str, Any], list[str]]


def _init(args: argparse.Namespace) -> Outcome:
    from edgehone.registry.create import create

    ring = _ring(args)
    root = create(
        _store(args), ring, args.task, _now(),
        approve=args.approve, online_plain=args.online_key_plain, expiry=_expiry(args),
    )  # fmt: skip
    keys = ring.folders[0]
    return {"registry": args.registry, "keys": str(keys), "root": str(root), "tasks": args.task}, [
        f"registry {args.registry} is ready; let a web server host it",
        f"nodes need {root}",
        f"keys are in {keys}: take all but the online key off this machine, and keep two copies of each",
    ]


def _add_task(args: argparse.Namespace) -> Outcome:
    from edgehone.registry.create import add_task

    ring = _ring(args)
    key = add_task(_store(args), ring, args.task, _now(), approve=args.approve, anchor=_anchor(ring))
    return {"task": args.task, "key": key}, [f"releases of {args.task} are signed by key {key}"]


def _publish(args: argparse.Namespace) -> Outcome:
    from edgehone.registry import publish

    ring = _ring(args, ask=args.approve == "manual")
    store, anchor = _store(args), _anchor(ring)
    if args.complete is not None:
        if args.bundle:
            raise InputError("a prepared release is complete", do="leave the bundles and deltas out")
        _registry_deltas.refuse(args)
        done = publish.complete(store, ring, args.complete, _now(), anchor=anchor)
    elif args.prepare is not None:
        wanted = _registry_deltas.wanted(args)
        done = publish.prepare(store, args.prepare, args.bundle, args.delta, _now(), anchor=anchor, wanted=wanted)
        lines = [
            f"{done.task} version {done.version} is prepared",
            *_registry_deltas.lines(done),
            f"sign {args.prepare}, then publish it with --complete",
        ]
        return {**asdict(done), "prepared": str(args.prepare)}, lines
    else:
        wanted = _registry_deltas.wanted(args)
        done = publish.publish(store, ring, args.bundle, args.delta, _now(), anchor=anchor, wanted=wanted)
    word = "is live" if done.new else "is live already"
    ways = {way.path for way in done.deltas}
    lines = [f"{done.task} version {done.version} {word}", *(f"  + {path}" for path in done.added if path not in ways)]
    lines += _registry_deltas.lines(done) if done.new else []
    return asdict(done), [*lines, *(f"  - {path}" for path in done.removed)]


def _sign(args: argparse.Namespace) -> Outcome:
    from edgehone.cli._registry_deltas import share
    from edgehone.registry.keys import KeyRing
    from edgehone.registry.publish import read_prepared, sign

    note, _ = read_prepared(args.folder)
    versions = ", ".join(map(str, note["live_versions"]))
    says = [
        f"{note['task']} version {note['version']}; live afterwards: {versions}; valid until {note['expires']}",
        *(f"  + {path}  sha256 {note['digests'][path]}" for path in note["added"]),
        *(f"    {way['path']} is a delta: {share(way['size_bytes'], way['share'])}" for way in note["deltas"]),
        *(f"  - {path}" for path in note["removed"]),
    ]
    if not args.json:  # before the passphrase is asked for
        print("\n".join(says), flush=True)
    key = sign(args.folder, KeyRing([], _passphrases(args)), args.key)
    return {"key": key, **note}, [f"signed with key {key}"]


def _rotate(args: argparse.Namespace) -> Outcome:
    from edgehone.registry.rotation import rotate

    ring = _ring(args)
    done = rotate(
        _store(args), ring, args.role, _now(),
        key=args.key, plain=args.online_key_plain, approve=args.approve, anchor=_anchor(ring),
    )  # fmt: skip
    return asdict(done), [_replaced(asdict(done))]


def _revoke(args: argparse.Namespace) -> Outcome:
    from edgehone.registry.rotation import revoke_key
    from edgehone.registry.upkeep import revoke_release

    ring = _ring(args)
    store, anchor = _store(args), _anchor(ring)
    if args.key is not None:
        replaced = [asdict(done) for done in revoke_key(store, ring, args.key, _now(), anchor=anchor)]
        return {"replaced": replaced}, [_replaced(done) for done in replaced]
    task, version = args.release
    if not version.isdigit():
        raise InputError(f"{version!r} is no version", do="give a whole number, like --release digits 4")
    gone = revoke_release(store, ring, task, int(version), _now(), anchor=anchor)
    lines = [f"{task} version {version} is taken back", *(f"  - {path}" for path in gone)]
    return {"task": task, "version": int(version), "removed": list(gone)}, lines


def _refresh(args: argparse.Namespace) -> Outcome:
    from edgehone.registry.upkeep import refresh

    ring = _ring(args)
    store, anchor = _store(args), _anchor(ring)
    done = refresh(store, ring, _now(), also=args.also, expiry=_expiry(args, store, anchor), anchor=anchor)
    return {"signed": list(done)}, [f"signed again: {', '.join(done)}"]


def _prune(args: argparse.Namespace) -> Outcome:
    from edgehone.registry.upkeep import prune
    from edgehone.units import format_size

    ring = _ring(args)
    done = prune(_store(args), _now(), keep_days=args.keep_days, anchor=_anchor(ring))
    counts = f"{len(done.blobs)} blobs and {len(done.metadata)} metadata files"
    return asdict(done), [f"removed {counts}, {format_size(done.size_bytes)}"]


def _status(args: argparse.Namespace) -> Outcome:
    from edgehone.cli._registry_page import lines
    from edgehone.registry.state import read
    from edgehone.registry.status import status

    ring = _ring(args)
    store = _store(args)
    found = status(store, read(store, _anchor(ring)), ring, _now())
    return found, lines(found)


_VERBS = {
    "init": _init,
    "add-task": _add_task,
    "publish": _publish,
    "sign": _sign,
    "rotate-key": _rotate,
    "revoke": _revoke,
    "refresh": _refresh,
    "prune": _prune,
    "status": _status,
}


def _approve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--approve", choices=("manual", "auto"), default="manual",
        help="manual: a person signs each release (default); auto: the key of the task needs no passphrase",
    )  # fmt: skip


def _expire(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--expire", action="append", default=[], metavar="ROLE=DAYS",
        help="how long metadata holds; ROLE is root, targets, task, snapshot or timestamp; may be repeated",
    )  # fmt: skip


def _expiry(args: argparse.Namespace, store: Objects | None = None, anchor: bytes | None = None) -> Expiry | None:
    from edgehone.registry.names import Expiry
    from edgehone.registry.state import read

    if not args.expire:
        return None
    return Expiry.parse(args.expire, None if store is None else read(store, anchor).expiry)


def _store(args: argparse.Namespace) -> Objects:
    from edgehone.registry.bucket import open_store

    return open_store(args.registry)


def _ring(args: argparse.Namespace, *, ask: bool = True) -> KeyRing:
    from edgehone.registry.keys import KeyRing

    return KeyRing(args.keys or [_keys_of(args.registry)], _passphrases(args, ask=ask))


def _keys_of(registry: str) -> Path:
    """The keys folder beside a registry's folder; for one in a bucket it lies here."""
    if "://" in registry:
        return Path(f"{registry.rstrip('/').rpartition('/')[2]}.keys")
    folder = Path(registry)
    return folder.with_name(f"{folder.resolve().name}.keys")


def _passphrases(args: argparse.Namespace, *, ask: bool = True) -> Passphrases:
    from edgehone.registry.keys import Passphrases

    known = [*map(_first_line, getattr(args, "passphrase_file", [])), os.environ.get(_VARIABLE, "")]
    return Passphrases(known, getpass.getpass if ask and sys.stdin.isatty() else None)


def _first_line(path: Path) -> str:
    try:
        line = path.read_text().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the passphrase file cannot be read", where=str(path), do="give a text file") from error
    if not line:
        raise InputError("the first line of the passphrase file is empty", where=str(path), do="write one there")
    return line


def _anchor(ring: KeyRing) -> bytes | None:
    from edgehone.registry.create import load_anchor

    return load_anchor(ring)


def _replaced(done: dict[str, Any]) -> str:
    return f"{done['role']}: {', '.join(done['old'])} replaced by {', '.join(done['new'])}"


def _now() -> datetime:
    return datetime.now(UTC)
