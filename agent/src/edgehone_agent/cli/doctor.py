"""`edgehone-agent doctor`: is everything here that the agent needs? A line per check, and what to do."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgehone_agent.cli._terminal import add_json, add_state, say, say_json

if TYPE_CHECKING:
    from edgehone_agent.config import Settings
    from edgehone_agent.transport import Source

help = "check what the agent needs on this machine, and say what to do about what is missing"
examples = (
    "edgehone-agent doctor",
    "edgehone-agent doctor --config agent.toml --json",
    "edgehone-agent doctor --registry https://models.example/edgehone --root root.json --task digits",
)

_LOW_BYTES, _NO_BYTES = 200_000_000, 1_000_000
_SOON_DAYS = 30
_SKEW_S = 300.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    text: str
    do: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="the agent's settings (TOML)")
    parser.add_argument("--registry", metavar="URL", help="as for run")
    parser.add_argument("--root", type=Path, metavar="FILE", help="as for run")
    parser.add_argument("--task", action="append", metavar="NAME", help="as for run")
    add_state(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Check and print; 1 when a check failed."""
    from edgehone_agent.config import read_settings

    tasks = None if args.task is None else tuple(args.task)
    flags = {"registry": args.registry, "root": args.root, "state": args.state, "tasks": tasks}
    findings = examine(read_settings(args.config, flags))
    if args.json:
        say_json({"checks": [asdict(finding) for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            say(f"{finding.verdict:4}  {finding.name.ljust(width)}  {finding.text}")
            if finding.do:
                say(f"      {' ' * width}  → {finding.do}")
    return 1 if any(finding.verdict == "fail" for finding in findings) else 0


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which one would look."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python,
        _runtimes,
        _state,
        _clock,
        _slots,
        _root,
        _registry,
        _core,
        _files,
        _socket,
    )
    return [finding for check in checks for finding in check(settings)]


def _python(_: Settings) -> Iterator[Finding]:
    import platform

    import numpy

    text = f"{platform.python_version()} on {platform.machine()}, numpy {numpy.__version__}"
    yield Finding("python", "ok", text)


def _runtimes(_: Settings) -> Iterator[Finding]:
    from edgehone_agent.errors import EdgehoneError
    from edgehone_agent.runtimes import RUNTIMES

    found: list[Finding] = []
    for name in RUNTIMES.names():
        try:
            found.append(Finding(f"runtime {name}", "ok", RUNTIMES.get(name).version()))
        except EdgehoneError as error:
            found.append(Finding(f"runtime {name}", "warn", error.what, error.do))
    yield from found
    if not any(finding.verdict == "ok" for finding in found):
        yield Finding("runtimes", "fail", "there is none", 'pip install "edgehone-agent[litert]"')


def _state(settings: Settings) -> Iterator[Finding]:
    folder = settings.state
    if folder.is_symlink() and not folder.exists():
        do = "mount what it leads to, or choose another folder: --state"
        yield Finding("state", "fail", f"{folder} is a link to {folder.readlink()}, which is not there", do)
        return
    there = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), Path("/"))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("state", "fail", f"{folder} cannot be written", "fix its permission, or choose another: --state")
        return
    free = shutil.disk_usage(there).free
    text = f"{folder} can be written, {free / 1e6:,.0f} MB free"
    if free < _NO_BYTES:
        yield Finding(
            "state", "fail", f"the disk of {folder} is full", "free some space: it serves, and updates nothing"
        )
    elif free < _LOW_BYTES:
        yield Finding("state", "warn", text, "free some space: an update needs three times the size of a bundle")
    else:
        yield Finding("state", "ok", text)


def _slots(settings: Settings) -> Iterator[Finding]:
    from edgehone_agent.node import task_names
    from edgehone_agent.slots import Slots

    for name in task_names(settings.state):
        found = Slots(settings.state / "tasks" / name, name, is_writer=False)
        if found.fault:
            yield Finding(f"slots {name}", "warn", found.fault, "see: edgehone-agent models")
        if settings.tasks and name not in settings.tasks:
            used = sum(file.stat().st_size for file in found.folder.rglob("*") if file.is_file())
            text = f"not among the tasks to serve, and takes {used / 1e6:,.1f} MB"
            yield Finding(f"slots {name}", "warn", text, f"remove {found.folder} if it will not be served again")


def _clock(settings: Settings) -> Iterator[Finding]:
    from edgehone_agent._floors import FloorStore
    from edgehone_agent.errors import StateError
    from edgehone_agent.verify import BUILT_S

    now_s, floor_s = time.time(), BUILT_S
    if settings.state.is_dir():
        try:
            floor_s = max(floor_s, FloorStore(settings.state).load()[0].time_s)
        except StateError as error:
            yield Finding("floors", "fail", error.what, error.do)
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < floor_s - _SKEW_S:
        days = (floor_s - now_s) / 86_400
        text = f"{stamp}, which is at least {days:.1f} days behind"
        yield Finding("clock", "warn", text, "set the clock: serving goes on, expiry is judged without it")
    else:
        yield Finding("clock", "ok", stamp)


def _root(settings: Settings) -> Iterator[Finding]:
    from edgehone_agent._tuf import read_root as parse
    from edgehone_agent.agent import read_root
    from edgehone_agent.errors import EdgehoneError

    if settings.root is None:
        if _is_enrolled(settings):
            return
        yield Finding("root", "warn", "none is named, so nothing is updated", "name it: --root root.json")
        return
    try:
        root = parse(read_root(settings.root))
    except EdgehoneError as error:
        yield Finding("root", "fail", error.what, error.do or "copy root.json from the registry's owner again")
        return
    days = (root.expires.timestamp() - time.time()) / 86_400
    text = f"version {root.version}, holds until {root.expires:%Y-%m-%d}"
    if days < _SOON_DAYS:  # the agent fetches newer roots that this one vouches for, so this alone stops nothing
        yield Finding("root", "warn", text, "have the registry's owner sign a new root, and bring it here")
    else:
        yield Finding("root", "ok", text)


def _registry(settings: Settings) -> Iterator[Finding]:
    from edgehone_agent.config import redacted
    from edgehone_agent.errors import EdgehoneError
    from edgehone_agent.transport import open_source

    if settings.registry is None:
        if not _is_enrolled(settings):
            yield Finding("registry", "warn", "none is named, so nothing is updated", "name it: --registry URL")
        return
    cert: Any = None
    if settings.registry_cert is not None and settings.registry_key is not None:
        cert = (settings.registry_cert, settings.registry_key)
    try:
        source = open_source(settings.registry, timeout_s=_TIMEOUT_S, ca=settings.registry_ca, cert=cert)
        source.fetch("metadata/timestamp.json", 16_384)
    except EdgehoneError as error:
        text = f"{redacted(settings.registry)}: {error.what}"
        yield Finding("registry", "fail", text, error.do or "check the address")
    else:
        yield Finding("registry", "ok", f"{redacted(settings.registry)} answers")
        for task in settings.tasks:
            yield _offer(settings, source, task)


def _is_enrolled(settings: Settings) -> bool:
    from edgehone_agent.uplink.identity import FOLDER

    return settings.core.enabled and (settings.state / FOLDER / "identity.json").exists()


def _core(settings: Settings) -> Iterator[Finding]:
    """Identity, certificate, and whether the core answers with a certificate that this node trusts."""
    import socket
    import ssl

    from edgehone_agent.errors import EdgehoneError
    from edgehone_agent.uplink.client import core_error, trusting
    from edgehone_agent.uplink.identity import about, core_address, load_identity

    if not _is_enrolled(settings):
        return
    try:
        identity = load_identity(settings.state)
        if identity is None:
            return
        told = about(identity, time.time())
        context = trusting(identity)
    except EdgehoneError as error:
        yield Finding("core", "fail", error.what, error.do)
        return
    days = told["certificate_days"]
    if days <= 0:
        do = "enrol the node again: edgehone-agent enrol TOKEN --core ADDRESS --again"
        yield Finding("certificate", "fail", f"ran out {-days:.1f} days ago, so the core lets this node in no more", do)
    elif told["renewal_due"]:
        text = f"holds {days:.1f} more days, and should have been renewed"
        yield Finding("certificate", "warn", text, "see that the agent runs and reaches its core")
    else:
        yield Finding("certificate", "ok", f"holds {days:.1f} more days")
    host, port = core_address(identity.core)
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            yield Finding("core", "ok", f"{identity.core} answers; this is node {identity.node}")
    except (OSError, ssl.SSLError) as error:
        found = core_error(error, identity.core)
        yield Finding("core", "warn", f"{identity.core}: {found.what}", f"{found.do}")


def _offer(settings: Settings, source: Source, task: str) -> Finding:
    """What a node that knows nothing would be offered; what it verifies on the way is thrown away."""
    from edgehone_agent.agent import read_root
    from edgehone_agent.errors import EdgehoneError
    from edgehone_agent.fit import choose, describe_node
    from edgehone_agent.verify import Verifier

    name = f"task {task}"
    if settings.root is None:
        return Finding(name, "warn", "cannot be checked without a root")
    try:
        with tempfile.TemporaryDirectory() as folder:
            checked = Verifier(Path(folder), source, read_root(settings.root)).check(task)
        if not checked.fresh:
            return Finding(name, "fail", checked.flags[0].text, "have the registry signed anew, or set the clock")
        if not checked.releases:
            return Finding(name, "warn", "nothing is released yet", "publish a release")
        found = choose(checked.releases, describe_node(memory_bytes=settings.memory_bytes))
    except EdgehoneError as error:
        return Finding(name, "fail", error.what, error.do)
    return Finding(name, "ok", f"version {found.version} ({found.member}) is signed and fits this machine")


def _files(settings: Settings) -> Iterator[Finding]:
    """Certificates and keys that the settings name: they can be used, and keys are nobody else's to read."""
    from edgehone_agent.agent import tls_of
    from edgehone_agent.errors import EdgehoneError

    serve, told = settings.serve, settings.mqtt
    for name, check in tls_of(settings).items():
        try:
            check()
        except EdgehoneError as error:
            yield Finding(name, "fail", str(error).partition("\n")[0], error.do)
        else:
            yield Finding(name, "ok", "certificate and key can be used")
    for key in (settings.registry_key, serve.key, told.key, settings.state / "key"):
        try:
            mode = 0 if key is None else key.stat().st_mode
        except OSError:
            continue  # that it is missing was said, or it is made when it is needed
        if mode & 0o077:
            yield Finding("key", "warn", f"{key} can be read by others than its owner", f"chmod 600 {key}")


def _socket(settings: Settings) -> Iterator[Finding]:
    from edgehone_agent.cli._running import ask_socket
    from edgehone_agent.config import socket_path
    from edgehone_agent.errors import EdgehoneError
    from edgehone_agent.lock import lock_owner

    path = socket_path(settings.state)
    if path is None:
        yield Finding("socket", "warn", "the path of the state folder is too long for one", "choose a shorter --state")
        return
    try:
        found = ask_socket(settings.state, "GET", "/status")
    except EdgehoneError as error:
        yield Finding("socket", "fail", error.what, error.do)
        return
    if found is None:
        try:
            owner = lock_owner(settings.state)
        except EdgehoneError as error:
            yield Finding("socket", "fail", error.what, error.do)
            return
        if owner is None:
            yield Finding("socket", "ok", "no agent runs with this folder")
        else:
            text = f"process {owner} holds the folder and does not answer"
            yield Finding("socket", "warn", text, "an agent that starts answers soon; another program must end first")
        return
    unready = [name for name, task in found["tasks"].items() if not task["ready"]]
    if unready:
        text = f"the agent has no model for {', '.join(unready)}"
        yield Finding("socket", "warn", text, "see: edgehone-agent status")
    else:
        yield Finding("socket", "ok", f"an agent answers (process {found['process']})")
