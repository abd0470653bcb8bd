"""A registry on disk with its keys, a real web server before it, an unmodified TUF client, and a second opinion.

`second_opinion` checks metadata by the text of the TUF specification (1.0.34, sections 4 and 5) with its own canonical
JSON and `cryptography`; it shares no code with python-tuf and none with what is tested.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.ngclient import Updater

from edgehone.registry.bucket import open_store
from edgehone.registry.create import create, load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.objects import Objects
from edgehone.registry.publish import Published, publish
from edgehone.registry.store import Store
from edgehone.testing.buckets import bucket
from edgehone.testing.shapes import fits
from edgehone_agent.wire.manifest import Fit, Manifest, Part, Values

PASSPHRASE = "correct horse battery staple"


def write_bundle(path: Path, task: str, version: int, member: str, model: bytes = b"\x01" * 500) -> Path:
    """A sound bundle with a model that is only bytes."""
    part = Part("models/litert/model.tflite", "model", hashlib.sha256(model).hexdigest(), len(model), "litert")
    manifest = Manifest(
        task, "classification", version, member, "2026-01-01T00:00:00Z", (part,),
        Values("picture", (1, 8, 8)), Values("scores", (3,)), labels=("a", "b", "c"),
        fit=Fit(runtimes=("litert",), memory_bytes=1000, latency_us=250.5),
    )  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(manifest.to_json()))
        archive.writestr(zipfile.ZipInfo(part.path), model)
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class World:
    """One registry, the person who has its keys, and its nodes."""

    def __init__(self, folder: Path, url: str, passphrase: str = PASSPHRASE) -> None:
        self.folder = folder
        self.store: Objects = Store(folder / "registry")
        self.served = folder / "registry"
        self.keys = folder / "keys"
        self.url = url
        self.passphrase = passphrase
        self.now = datetime.now(UTC)

    def ring(self, *folders: Path, passphrase: str | None = None) -> KeyRing:
        """Keys at hand, freshly opened."""
        return KeyRing(folders or (self.keys,), Passphrases([passphrase or self.passphrase]), scrypt_n=2)

    @property
    def anchor(self) -> bytes | None:
        return load_anchor(self.ring())

    def create(self, *tasks: str, **options: Any) -> None:
        create(self.store, self.ring(), tasks, self.now, **options)

    def bundle(self, task: str = "digits", version: int = 1, member: str = "w22-int8", model: bytes = b"") -> Path:
        name = f"{task}-{version}-{member}.bundle"
        return write_bundle(self.folder / name, task, version, member, model or f"{task}{version}".encode() * 99)

    def publish(self, task: str = "digits", version: int = 1, *members: str) -> Published:
        bundles = [self.bundle(task, version, member) for member in members or ("w22-int8",)]
        return publish(self.store, self.ring(), bundles, [], self.now, anchor=self.anchor)

    def updater(self, name: str = "node") -> Updater:
        """A node's TUF client as it comes after a restart; its state is kept under `name`."""
        state = self.folder / name
        (state / "downloads").mkdir(parents=True, exist_ok=True)
        root = (self.served / "metadata" / "1.root.json").read_bytes()
        return Updater(
            str(state), f"{self.url}/metadata/", str(state / "downloads"), f"{self.url}/targets/", bootstrap=root
        )

    def get(self, target: str, name: str = "node") -> bytes | None:
        """A target as a node gets it; None when it is not offered."""
        updater = self.updater(name)
        updater.refresh()
        info = updater.get_targetinfo(target)
        return None if info is None else Path(updater.download_target(info)).read_bytes()

    def file(self, role: str) -> dict[str, Any]:
        """Current metadata of a role, as JSON."""
        metadata = self.served / "metadata"
        stamp = json.loads((metadata / "timestamp.json").read_text())
        if role == "timestamp":
            return stamp
        version = stamp["signed"]["meta"]["snapshot.json"]["version"]
        snapshot = json.loads((metadata / f"{version}.snapshot.json").read_text())
        if role != "snapshot":
            version = snapshot["signed"]["meta"][f"{role}.json"]["version"]
            return json.loads((metadata / f"{version}.{role}.json").read_text())
        return snapshot

    def listing(self) -> dict[str, bytes]:
        """Every file of the registry."""
        root = self.served
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def place() -> str:
    """Where the registry lies: "folder" or "bucket". A module that wants both parametrises this."""
    return "folder"


@pytest.fixture
def world(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An empty place, with a web server on loopback."""
    (tmp_path / "registry").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "registry")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    world = World(tmp_path, f"http://127.0.0.1:{server.server_port}")
    if place == "folder":
        yield world
    else:
        with bucket(tmp_path / "registry") as environment:
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            world.store = open_store("s3://models/registry")
            yield world
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def digits(world: World) -> World:
    """A registry with the task digits."""
    world.create("digits")
    return world


def canonical(value: Any) -> str:
    """OLPC canonical JSON: sorted keys, no spaces, only quote and backslash escaped, whole numbers only."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    raise TypeError(f"canonical JSON has no {type(value).__name__}")


HEX = "[0-9a-f]{64}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
COUNT = range(1, 2**53)
KEYS = {re.compile(HEX): {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": HEX}}}
ROLE = {"keyids": [HEX], "threshold": COUNT}
COMMON = {"spec_version": r"1\.0\.\d+", "version": COUNT, "expires": TIME}
NAMED = {"version": COUNT, "length": COUNT, "hashes": {"sha256": HEX}}
TARGET = r"[a-z0-9][a-z0-9._-]*/[A-Za-z0-9._-]+"
BUNDLE = {
    "version": COUNT, "member": "[A-Za-z0-9][A-Za-z0-9._-]*", "rank": range(100), "fit": dict, "channel": "stable",
    "deltas": [{"from": HEX, "path": rf"{TARGET}\.delta"}],
}  # fmt: skip
DELTA = {"from": HEX, "to": HEX, "version": COUNT}
SHAPES: dict[str, Any] = {
    # TUF specification 1.0.34: sections 4.2 (file), 4.3 (root), 4.4 (snapshot), 4.5 (targets), 4.6 (timestamp)
    "file": {"signed": dict, "signatures": [{"keyid": HEX, "sig": "[0-9a-f]{128}"}]},
    "root": {
        "_type": "root", **COMMON, "consistent_snapshot": bool, "keys": KEYS,
        "roles": dict.fromkeys(("root", "targets", "snapshot", "timestamp"), ROLE),
        "x-edgehone": {"expiry_days": {re.compile("root|targets|task|snapshot|timestamp"): r"[0-9.e+-]+"}},
    },
    "timestamp": {"_type": "timestamp", **COMMON, "meta": {"snapshot.json": NAMED}},
    "snapshot": {"_type": "snapshot", **COMMON, "meta": {re.compile(r"(targets|task-[a-z0-9._-]+)\.json"): NAMED}},
    "targets": {
        "_type": "targets", **COMMON, "targets": {},
        "delegations?": {
            "keys": KEYS,
            "roles": [
                {"name": "task-[a-z0-9][a-z0-9._-]*", **ROLE, "terminating": bool,
                 "paths": [r"[a-z0-9][a-z0-9._-]*/\*"], "x-edgehone": {"approve": "manual|auto"}}
            ],
        },
    },
    "task": {
        "_type": "targets", **COMMON, "x-edgehone?": {"highest_version": COUNT},
        "targets": {
            re.compile(rf"{TARGET}\.{kind}"): {
                "length": COUNT, "hashes": {"sha256": HEX}, "custom": {"edgehone": about}
            }
            for kind, about in (("bundle", BUNDLE), ("delta", DELTA))
        },
    },
}  # fmt: skip


class Opinion:
    """Check one registry folder. Every broken rule is an AssertionError."""

    def __init__(self, folder: Path, now: datetime) -> None:
        self.folder, self.now = folder, now
        self.days: dict[str, str] = {}  # that metadata may hold, once the root said so
        self.roots = self._chain()
        root = self.roots[-1]["signed"]
        self.days = root["x-edgehone"]["expiry_days"]
        stamp = self.load("timestamp.json", "timestamp", root["roles"]["timestamp"], root["keys"])
        snapshot = self.named("snapshot", stamp["meta"]["snapshot.json"], root["roles"]["snapshot"], root["keys"])
        targets = self.named("targets", snapshot["meta"]["targets.json"], root["roles"]["targets"], root["keys"])
        self.files(targets, None)
        names = {"targets.json"}
        for role in targets.get("delegations", {"roles": []})["roles"]:
            assert role["terminating"] is True
            assert role["paths"] == [role["name"].removeprefix("task-") + "/*"]
            self.keys(targets["delegations"]["keys"])
            self.role(role, targets["delegations"]["keys"])
            signed = self.named(
                role["name"], snapshot["meta"][f"{role['name']}.json"], role, targets["delegations"]["keys"]
            )
            assert "delegations" not in signed and len(signed["targets"]) <= 100
            self.files(signed, role["paths"][0])
            names.add(f"{role['name']}.json")
        assert set(snapshot["meta"]) == names
        used = {keyid for role in root["roles"].values() for keyid in role["keyids"]}
        assert used == set(root["keys"])  # a key that signs for nothing has no business there
        assert [root["roles"][name]["threshold"] for name in ("root", "targets", "snapshot", "timestamp")] == [
            2,
            2,
            1,
            1,
        ]
        for file in (self.folder / "metadata").iterdir():  # section 6.2: with consistent snapshots, versions in names
            assert re.fullmatch(r"\d+\.(root|targets|snapshot|task-[a-z0-9._-]+)\.json|timestamp\.json", file.name)

    def _chain(self) -> list[dict[str, Any]]:
        roots: list[dict[str, Any]] = []
        while (path := self.folder / "metadata" / f"{len(roots) + 1}.root.json").exists():
            root = json.loads(path.read_bytes())
            signed = root["signed"]
            assert signed["version"] == len(roots) + 1 and signed["consistent_snapshot"] is True
            self.keys(signed["keys"])
            for role in signed["roles"].values():
                self.role(role, signed["keys"])
            self.common(root, "root", expired=True)
            for judge in (roots[-1]["signed"] if roots else signed, signed):
                self.signatures(root, judge["roles"]["root"], judge["keys"])
            roots.append(root)
        assert roots and roots[-1]["signed"]["roles"]["root"]["threshold"] == 2
        self.common(roots[-1], "root")
        return roots

    def load(self, name: str, kind: str, role: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
        file = json.loads((self.folder / "metadata" / name).read_bytes())
        self.common(file, kind)
        self.signatures(file, role, keys)
        signed: dict[str, Any] = file["signed"]
        return signed

    def named(
        self, name: str, meta: Mapping[str, Any], role: Mapping[str, Any], keys: Mapping[str, Any]
    ) -> dict[str, Any]:
        content = (self.folder / "metadata" / f"{meta['version']}.{name}.json").read_bytes()
        assert meta["length"] == len(content)
        assert meta["hashes"] == {"sha256": hashlib.sha256(content).hexdigest()}
        kind = name if name in ("snapshot", "targets") else "task"
        signed = self.load(f"{meta['version']}.{name}.json", kind, role, keys)
        assert signed["version"] == meta["version"]
        return signed

    def common(self, file: Mapping[str, Any], kind: str, *, expired: bool = False) -> None:
        """Section 4.2 and 4.3: envelope and common fields."""
        fits(file, SHAPES["file"], "file")
        signed = file["signed"]
        fits(signed, SHAPES[kind], kind)
        expires = datetime.strptime(signed["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert expired or expires > self.now
        if self.days:
            latest = self.now + timedelta(days=float(self.days[kind]), minutes=10)  # commands have a clock of their own
            assert expires <= latest, f"{kind} holds too long"
        assert len({signature["keyid"] for signature in file["signatures"]}) == len(file["signatures"]) > 0

    def keys(self, keys: Mapping[str, Any]) -> None:
        for keyid, key in keys.items():
            assert hashlib.sha256(canonical(key).encode()).hexdigest() == keyid

    def role(self, role: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
        assert len(set(role["keyids"])) == len(role["keyids"]) and set(role["keyids"]) <= set(keys)
        assert type(role["threshold"]) is int and 0 < role["threshold"] <= len(role["keyids"])

    def signatures(self, file: Mapping[str, Any], role: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
        payload = canonical(file["signed"]).encode()
        good = set()
        for signature in file["signatures"]:
            if signature["keyid"] in role["keyids"]:
                key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys[signature["keyid"]]["keyval"]["public"]))
                try:
                    key.verify(bytes.fromhex(signature["sig"]), payload)
                except InvalidSignature:
                    continue
                good.add(signature["keyid"])
        assert len(good) >= role["threshold"], f"{len(good)} of {role['threshold']} signatures"

    def files(self, signed: Mapping[str, Any], pattern: str | None) -> None:
        """Section 4.5: each target is delegated to who lists it, and lies where consistent snapshots want it."""
        digests = {path: file["hashes"]["sha256"] for path, file in signed["targets"].items()}
        for path, file in signed["targets"].items():
            allowed = pattern is not None and fnmatch.fnmatchcase(path, pattern) and path.count("/") == 1
            assert allowed, f"{path} is not the business of {pattern}"
            folder, name = path.split("/")
            blob = self.folder / "targets" / folder / f"{file['hashes']['sha256']}.{name}"
            assert len(blob.read_bytes()) == file["length"]
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == file["hashes"]["sha256"]
        for path, file in signed["targets"].items():
            about = file["custom"]["edgehone"]
            assert path.split("/")[1].startswith(f"{about['version']}-")
            for way in about.get("deltas", []):  # what leads to a bundle is listed, and says so itself
                delta = signed["targets"][way["path"]]["custom"]["edgehone"]
                assert delta == {"from": way["from"], "to": digests[path], "version": about["version"]}


@pytest.fixture
def second_opinion() -> Callable[[World], Opinion]:
    """Check a registry by the specification's text; raises AssertionError."""

    def check(world: World) -> Opinion:
        return Opinion(world.served, world.now + timedelta(seconds=1))

    return check


@pytest.fixture
def shape() -> Callable[[str, Any], None]:
    """Check the content of one kind of file by the specification's text; raises AssertionError."""

    def check(kind: str, value: Any) -> None:
        fits(value, SHAPES[kind], kind)

    return check
