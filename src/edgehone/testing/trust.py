"""A signed repository for tests of the node, and for those that need it to lie: any file can be replaced, or signed.

It has the layout of `edgehone registry`, is written by python-tuf's metadata API alone, and asks no questions:

    repository = Repository(folder, now_s=time.time(), tasks=("gauge",))
    repository.release("gauge", 1, b"bundle")
    repository.commit()
    repository.root                       # what a node embeds
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgehone_agent.transport import FolderSource
from edgehone_agent.verify import BUILT_S, Checked, Verifier

SITE_NOW_S = BUILT_S + 400 * 86400.0  # some day in the life of this package
PERIODS_DAYS = {"root": 365, "targets": 365, "task": 90, "snapshot": 7, "timestamp": 1}
_DAY_S = 86400.0


def digest(content: bytes) -> str:
    """sha256, hex."""
    return hashlib.sha256(content).hexdigest()


def sign(signed: Any, signers: Sequence[CryptoSigner]) -> bytes:
    """A metadata file."""
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    content: bytes = metadata.to_bytes()
    return content


class Repository:
    """Roles as python-tuf objects that a test may bend before the next `commit`.

    Attributes:
        folder: served as it is.
        now_s: the time that expiries count from.
        signers: private keys by role: 3 of root and targets (2 needed), 1 of "online" and of each task.
        root: bytes of the first root.
        targets, tasks: content of the targets role and of each task's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now_s: float,
        tasks: Sequence[str] = ("gauge",),
        periods_days: Mapping[str, int] | None = None,
        states_periods: bool = True,
    ) -> None:
        self.folder, self.now_s = folder, now_s
        self.periods_days = {**PERIODS_DAYS, **(periods_days or {})}
        self.signers = {name: [CryptoSigner.generate_ed25519() for _ in range(3)] for name in ("root", "targets")}
        self.signers["online"] = [CryptoSigner.generate_ed25519()]
        stated = {name: str(days) for name, days in self.periods_days.items()}
        self.root_role = Root(unrecognized_fields={"x-edgehone": {"expiry_days": stated}} if states_periods else {})
        for role in ("root", "targets"):
            for signer in self.signers[role]:
                self.root_role.add_key(signer.public_key, role)
            self.root_role.roles[role].threshold = 2
        for role in ("snapshot", "timestamp"):
            self.root_role.add_key(self.signers["online"][0].public_key, role)
        self.targets = Targets(delegations=Delegations({}, {}))
        self.tasks: dict[str, Targets] = {}
        self.versions = {"snapshot": 0, "timestamp": 0, "targets": 0}
        self.snapshot_meta = {"targets.json": MetaFile(1)}
        for task in tasks:
            self.add_task(task)
        self.root_role.version = 0
        self.root = self.write_root()
        self.commit()

    def add_task(self, task: str) -> None:
        """Delegate a task to a key of its own."""
        self.signers[task] = [CryptoSigner.generate_ed25519()]
        self.tasks[task] = Targets()
        self.tasks[task].version = 0  # the first commit makes it 1
        role = DelegatedRole(f"task-{task}", [], 1, True, paths=[f"{task}/*"])
        if self.targets.delegations is not None and self.targets.delegations.roles is not None:
            self.targets.delegations.roles[role.name] = role
        self.targets.add_key(self.signers[task][0].public_key, role.name)

    def release(
        self, task: str, version: int, content: bytes, *, member: str = "small", rank: int = 0, **about: Any
    ) -> str:
        """List a bundle, put its bytes in place, and return its target path; `about` goes into the custom field."""
        path = f"{task}/{version}-{member}.bundle"
        custom = {"version": version, "member": member, "rank": rank, "fit": {}, "deltas": [], **about}
        self.put_target(task, path, content, custom)
        return path

    def put_target(self, task: str, path: str, content: bytes, about: Mapping[str, Any]) -> None:
        """List any file in a task's role, and put its bytes in place."""
        file = TargetFile(len(content), {"sha256": digest(content)}, path, {"custom": {"edgehone": dict(about)}})
        self.tasks[task].targets[path] = file
        folder, _, name = path.rpartition("/")
        self.put(f"targets/{folder}/{digest(content)}.{name}", content)

    def commit(self, *, tasks: Sequence[str] | None = None) -> None:
        """Sign and write the tasks' roles (all by default), targets, a new snapshot and a new timestamp."""
        for task in self.tasks if tasks is None else tasks:
            role = self.tasks[task]
            role.version, role.expires = role.version + 1, self.end("task")
            self.snapshot_meta[f"task-{task}.json"] = MetaFile(role.version)
            self.put(f"metadata/{role.version}.task-{task}.json", sign(role, self.signers[task]))
        if tasks is None:
            self.versions["targets"] += 1
            self.targets.version, self.targets.expires = self.versions["targets"], self.end("targets")
            self.snapshot_meta["targets.json"] = MetaFile(self.targets.version)
            self.put(f"metadata/{self.targets.version}.targets.json", sign(self.targets, self.signers["targets"][:2]))
        self.write_snapshot()
        self.write_timestamp()

    def write_snapshot(self) -> None:
        """The next snapshot."""
        self.versions["snapshot"] += 1
        version = self.versions["snapshot"]
        snapshot = Snapshot(version=version, expires=self.end("snapshot"), meta=dict(self.snapshot_meta))
        self.put(f"metadata/{version}.snapshot.json", sign(snapshot, self.signers["online"]))

    def write_timestamp(self) -> None:
        """The next timestamp, of the newest snapshot."""
        self.versions["timestamp"] += 1
        timestamp = Timestamp(
            version=self.versions["timestamp"],
            expires=self.end("timestamp"),
            snapshot_meta=MetaFile(self.versions["snapshot"]),
        )
        self.put("metadata/timestamp.json", sign(timestamp, self.signers["online"]))

    def write_root(self, signers: Sequence[CryptoSigner] | None = None) -> bytes:
        """The next root, signed by two of its keys or by those given."""
        self.root_role.version, self.root_role.expires = self.root_role.version + 1, self.end("root")
        content = sign(self.root_role, self.signers["root"][:2] if signers is None else signers)
        self.put(f"metadata/{self.root_role.version}.root.json", content)
        return content

    def rotate_online(self) -> CryptoSigner:
        """Replace the online key in a new root, sign anew, and return the old key."""
        old, new = self.signers["online"][0], CryptoSigner.generate_ed25519()
        for role in ("snapshot", "timestamp"):
            self.root_role.revoke_key(old.public_key.keyid, role)
            self.root_role.add_key(new.public_key, role)
        self.signers["online"] = [new]
        self.write_root()
        self.write_snapshot()
        self.write_timestamp()
        return old

    def rotate_task(self, task: str) -> CryptoSigner:
        """Replace a task's key, sign anew, and return the old key."""
        old, new = self.signers[task][0], CryptoSigner.generate_ed25519()
        self.targets.revoke_key(old.public_key.keyid, f"task-{task}")
        self.targets.add_key(new.public_key, f"task-{task}")
        self.signers[task] = [new]
        self.commit()
        return old

    def put(self, path: str, content: bytes) -> None:
        """Write a file as it is."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def end(self, role: str) -> datetime.datetime:
        """When metadata of a role that is signed now expires."""
        end = datetime.datetime.fromtimestamp(self.now_s + self.periods_days[role] * _DAY_S, datetime.UTC)
        return end.replace(microsecond=0)


class Clocks:
    """A wall clock and an uptime that a test moves."""

    def __init__(self, now_s: float = SITE_NOW_S) -> None:
        self.now_s, self.up_s = now_s, 0.0

    def run(self, seconds: float) -> None:
        """Let both go on."""
        self.now_s += seconds
        self.up_s += seconds


class Site:
    """A registry with one release, a node's folder and its clocks."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.state, self.clocks = folder, folder / "state", Clocks()
        self.repository = Repository(folder / "registry", now_s=SITE_NOW_S, **settings)
        self.repository.release("gauge", 1, b"first")
        self.repository.commit()

    def verifier(self, root: bytes | None = None) -> Verifier:
        """A node that has just started."""
        self.clocks.up_s = 0.0
        return Verifier(
            self.state,
            FolderSource(self.repository.folder),
            self.repository.root if root is None else root,
            clock=lambda: self.clocks.now_s,
            uptime=lambda: self.clocks.up_s,
        )

    def check(self) -> Checked:
        """A check after a start."""
        return self.verifier().check("gauge")

    def keep(self, name: str) -> Path:
        """A copy of the registry as it is now."""
        return Path(shutil.copytree(self.repository.folder, self.folder / name))

    def show(self, copy: Path, *names: str) -> None:
        """Show files of an old copy (all metadata by default) to the node."""
        for file in (copy / "metadata").iterdir():
            if not names or file.name in names:
                shutil.copy(file, self.repository.folder / "metadata" / file.name)

    def advance(self, days: float) -> None:
        """Let time pass everywhere."""
        self.clocks.run(days * _DAY_S)
        self.repository.now_s += days * _DAY_S
