"""The agent: a node that serves, keeps itself up to date, and stops when it is told to.

    run_agent(read_settings(Path("agent.toml")))      # until SIGTERM or SIGINT

Order: lock the folder → load what is there → listen → look at the registry, again and again. Serving never waits for
the registry. SIGTERM and SIGINT let running requests end; SIGHUP reads requests from commands and looks at once.

A signal counts from the first moment to the last: one that comes while models are loaded is acted on right after, and
none of them ever ends the process in the middle. A process that was told to stop must not look like one that died, for
that is blamed on the model. What a look at the registry runs into is logged and never the last look; a defect too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone_agent import __version__
from edgehone_agent.capture import Capture, read_key
from edgehone_agent.config import Settings, redacted, socket_path
from edgehone_agent.errors import ConfigError, StateError
from edgehone_agent.lock import announce, lock_owner
from edgehone_agent.node import Node
from edgehone_agent.requests import Act, answer_all
from edgehone_agent.serve.limits import Limits
from edgehone_agent.updates import Stopped, Updates, first_wait_s, wait_s
from edgehone_agent.uplink.identity import Identity, load_identity

if TYPE_CHECKING:
    from edgehone_agent.fit import NodeFacts
    from edgehone_agent.serve.mqtt import BrokerTls, MqttBridge
    from edgehone_agent.serve.tls import Tls
    from edgehone_agent.transport import Source
    from edgehone_agent.uplink.link import Uplink
    from edgehone_agent.verify import Verifier

log = logging.getLogger("edgehone_agent.agent")

_END = (signal.SIGTERM, signal.SIGINT)
_REQUESTS_S = 5.0  # how often requests are looked for without a signal
_SWITCH_S = 0.0005  # how long the watch may keep the interpreter from an answer; Python's own default is 5 ms


def run_agent(settings: Settings, *, rng: random.Random | None = None) -> None:
    """Run until a signal says stop.

    Args:
        settings: see `config`.
        rng: for the jitter of polling.

    Raises:
        ConfigError: an address, certificate or file that cannot be used.
        StateError: another agent runs with this folder.
        MissingExtraError: MQTT is set up and paho is not installed.
    """
    sys.setswitchinterval(_SWITCH_S)
    owner = lock_owner(settings.state)
    if owner is not None:
        raise _taken(settings.state, owner)
    with ExitStack() as stack:
        signals = stack.enter_context(_signals())
        capture = _open_capture(settings)
        if capture is not None:
            stack.callback(capture.close)
        identity = load_identity(settings.state) if settings.core.enabled else None
        own = (settings.learn or None, settings.label_error) if identity is None else None  # else the core is asked
        node = Node(
            settings.state, tasks=settings.tasks, threads=settings.threads, sessions=settings.sessions,
            watch=settings.watch.enabled, capture=capture, context=settings.context, policy=own,
        )  # fmt: skip
        stack.enter_context(node)
        if not node.claim() and node.fault is None:  # another one was quicker
            raise _taken(settings.state, lock_owner(settings.state) or 0)
        if not node.tasks() and identity is None:
            raise ConfigError(
                "there is no task to serve",
                where=str(settings.state),
                do="name a registry, its root and a task: --registry URL --root root.json --task NAME; or a core: "
                "edgehone-agent enrol --help",
            )
        for name, told in node.status()["tasks"].items():
            word = f"version {told['version']} answers" if told["ready"] else told["fault"] or "no model yet"
            log.log(logging.INFO if told["ready"] or not told["fault"] else logging.WARNING, "%s: %s", name, word)
        if node.fault:
            log.warning("the state folder cannot be written, so nothing is updated: %s", node.fault)
        asyncio.run(Agent(settings, node, capture, rng or random.Random(), identity).run(signals))


class Signals:
    """The signals that came, told to whoever listens; those that came before it listened too."""

    def __init__(self) -> None:
        self._early: list[int] = []
        self._listener: Callable[[int], object] = self._early.append

    def arrived(self, number: int, _frame: object) -> None:
        """For `signal.signal`."""
        self._listener(number)

    def listen(self, listener: Callable[[int], object]) -> None:
        """Hand every signal to `listener` from now on, on the main thread between two of its steps."""
        self._listener = listener
        while self._early:
            listener(self._early.pop(0))

    def mute(self) -> None:
        """The process ends anyway."""
        self._listener = lambda _: None


@contextlib.contextmanager
def _signals() -> Iterator[Signals]:
    signals = Signals()
    before = {number: signal.signal(number, signals.arrived) for number in (*_END, signal.SIGHUP)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _taken(state: Path, owner: int) -> StateError:
    return StateError(
        f"another agent runs with this folder (process {owner})",
        where=str(state),
        do="stop it, or give this one a folder of its own: --state FOLDER",
    )


class Agent:
    """The loop around a node; see the module."""

    def __init__(
        self,
        settings: Settings,
        node: Node,
        capture: Capture | None,
        rng: random.Random,
        identity: Identity | None = None,
    ) -> None:
        self._settings, self._node, self._capture, self._rng = settings, node, capture, rng
        self._stop, self._look_now, self._asked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_stopping, self._is_renewed = threading.Event(), threading.Event()
        self._source: Source | None = None
        self._registry: dict[str, Any] = {}
        self._listening: list[str] = []
        self._identity = identity
        self._link: Uplink | None = None
        self._tell()

    async def run(self, signals: Signals) -> None:
        """Serve and update until a signal. Raises as `run_agent`."""
        from edgehone_agent.serve.app import serve

        loop = asyncio.get_running_loop()
        signals.listen(lambda number: loop.call_soon_threadsafe(self._told, number))
        announce(self._settings.state)
        settings = self._settings
        limits = Limits(**settings.serve.limits)  # type: ignore[arg-type]  # checked by the settings
        try:
            bridge = _open_bridge(settings, self._node, limits)
            self._link = self._open_link(loop)
            work = [asyncio.create_task(self._keep_up_to_date()), asyncio.create_task(self._answer_requests())]
            try:
                if bridge is not None:
                    bridge.start()
                if self._link is not None:
                    self._link.start()
                await serve(
                    self._node, _addresses(settings), tls=_tls(settings), limits=limits, stop=self._stop,
                    ready=self._ready,
                )  # fmt: skip
            finally:
                self._end()
                if bridge is not None:
                    bridge.stop()
                if self._link is not None:
                    await asyncio.to_thread(self._link.stop)
                await asyncio.wait(work)
            for task in work:
                task.result()
        finally:
            signals.mute()  # the loop ends

    def _told(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._asked.set()
            self._look_now.set()
        else:
            log.info("stopping: %s", signal.Signals(number).name)
            self._end()

    def _end(self) -> None:
        self._is_stopping.set()
        for event in (self._stop, self._look_now, self._asked):
            event.set()
        if self._source is not None:
            self._source.interrupt()

    async def _apart(self, what: str, call: Callable[..., Any], *arguments: object) -> tuple[Any, bool]:
        """What a call comes to on a thread of its own, and whether it ended in a defect, which is logged.

        Serving goes on, and so do updates: the next look may meet with something else.
        """
        task = asyncio.create_task(asyncio.to_thread(call, *arguments))
        await asyncio.wait((task,))
        error = task.exception()
        if error is None:
            return task.result(), False
        log.error("a defect in %s", what, exc_info=error)
        self._registry["defect"] = f"{what}: {error!r}"
        self._tell()
        return None, True

    def _ready(self, listening: list[str]) -> None:
        self._listening = listening
        self._tell()
        gc.collect()
        gc.freeze()  # what is here by now stays: later collections, which stop every answer, need not look at it

    async def _keep_up_to_date(self) -> None:
        if self._settings.registry is None and self._link is None:
            return
        updates = Updates(
            self._node,
            self._open_verifier,
            facts=self._facts,
            stopping=self._is_stopping.is_set,
            wanted=None if self._link is None else self._link.wanted,
            shadow_share=self._settings.core.shadow_share,
        )
        wait = first_wait_s(self._settings.poll_s, self._node.ready(), self._rng)
        while not self._is_stopping.is_set():
            await _pause(self._look_now, wait)
            if self._is_stopping.is_set():
                break
            if self._is_renewed.is_set():
                self._is_renewed.clear()
                updates.forget_registry()
            self._registry["looking"] = True
            self._tell()
            self._registry["tasks"] = await self._look(updates)
            self._registry["looked_at_s"] = time.time()
            wait = wait_s(self._settings.poll_s, updates.failures, self._rng)
            self._registry |= {"looking": False, "failures": updates.failures}
            self._tell()

    async def _look(self, updates: Updates) -> dict[str, Any]:
        """One look at every task; a defect that one of them meets with is no reason to leave the others out."""
        _, broken = await self._apart("updates", updates.begin)
        found: dict[str, Any] = {}
        for task in self._node.tasks():
            told, is_defect = await self._apart(f"updates of {task}", updates.look_at, task)
            broken = broken or is_defect
            if is_defect:
                told = {"flags": [], "error": "a defect of edgehone; its log has the details", "code": "EH000"}
            elif told is None:
                break
            found[task] = told
        updates.end(broken=broken)
        return found

    async def _answer_requests(self) -> None:
        """Do what commands ask for, at once when woken, else with a look every few seconds."""
        acts = {"roll back": self._roll_back, "export": self._export, "look": lambda _: {}}
        while not self._is_stopping.is_set():
            await self._apart("requests", self._answer, acts)
            await _pause(self._asked, _REQUESTS_S)

    def _answer(self, acts: Mapping[str, Act]) -> None:
        try:
            answer_all(self._settings.state, acts)
        except StateError as error:
            log.warning("requests cannot be answered: %s", error.what, extra={"where": error.where})

    def _roll_back(self, request: Mapping[str, Any]) -> dict[str, Any]:
        manifest = self._node.roll_back(str(request["task"]), str(request.get("why", "")))
        log.warning("%s: rolled back by hand to version %s", manifest.task, manifest.version)
        return {"task": manifest.task, "version": manifest.version, "member": manifest.member}

    def _export(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._capture is None:
            raise StateError("this agent keeps no samples", where="capture", do="set capture.enabled = true")
        return self._capture.export(Path(str(request["folder"])), evidence=self._node.evidence())

    def _open_verifier(self) -> Verifier:
        from edgehone_agent.transport import open_source
        from edgehone_agent.verify import Verifier

        settings, identity = self._settings, self._identity
        if settings.registry is not None and settings.root is not None:
            source = open_source(settings.registry, ca=settings.registry_ca, cert=_cert(settings), pause=self._wait)
            root = settings.root
        elif identity is not None:
            from edgehone_agent.uplink.enrol import bring_root

            own = (identity.certificate_file, identity.key_file)
            source = open_source(identity.registry, ca=identity.ca_file, cert=own, pause=self._wait)
            root = identity.root_file
            if not root.exists():  # the core had no registry yet when the node was enrolled
                bring_root(identity)
        else:
            raise ConfigError("there is no registry", where="registry", do="name one: --registry URL")
        self._source = source
        return Verifier(settings.state, source, read_root(root))

    def _facts(self) -> NodeFacts:
        from edgehone_agent.fit import describe_node

        return describe_node(memory_bytes=self._settings.memory_bytes)

    def _open_link(self, loop: asyncio.AbstractEventLoop) -> Uplink | None:
        """The link to the core of a node that is enrolled; it is not started yet."""
        if self._identity is None:
            return None
        from edgehone_agent.uplink.link import Uplink

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._look_now.set)

        return Uplink(
            self._identity, self._node, self._capture, facts=self._facts, changed=changed,
            renewed=self._is_renewed.set, sends_samples=self._settings.core.samples, rng=self._rng,
            tasks=self._settings.tasks, takes_any_task=self._settings.core.tasks == "any",
            learn=self._settings.learn or None, label_error=self._settings.label_error,
        )  # fmt: skip

    def _wait(self, seconds: float) -> None:
        """Between two attempts at the registry; ends with the agent."""
        if self._is_stopping.wait(seconds):
            raise Stopped

    def _tell(self) -> None:
        """Put what the agent knows beside what the node knows."""
        registry = None
        address = self._settings.registry or (self._identity.registry if self._identity is not None else None)
        if address is not None:
            registry = {"address": redacted(address), **self._registry}
        self._node.notes = {
            "agent": __version__,
            "process": os.getpid(),
            "listening": self._listening,
            "registry": registry,
            **({} if self._link is None else {"core": self._link.status}),
        }


async def _pause(event: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until the event."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    event.clear()


def read_root(file: Path) -> bytes:
    """The embedded root's bytes. Raises ConfigError when the file cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the root cannot be read: {error.strerror}", where=str(file), do="copy root.json from the registry's owner"
        ) from error


def _addresses(settings: Settings) -> list[str]:
    own = socket_path(settings.state)
    if own is None:
        log.warning("the path of the state folder is too long for a socket: status and predict will not find the agent")
    elif os.access(settings.state, os.W_OK):  # on a read-only disk the node serves on its other addresses
        return [f"unix:{own}", *settings.serve.listen]
    return list(settings.serve.listen)


def _tls(settings: Settings) -> Tls | None:
    from edgehone_agent.serve.tls import Tls

    serve = settings.serve
    if serve.cert is None or serve.key is None or serve.client_ca is None:
        return None
    return Tls(serve.cert, serve.key, serve.client_ca)


def tls_of(settings: Settings) -> dict[str, Callable[[], object]]:
    """What tries the certificates and keys that the settings name, by what they are for; each raises ConfigError."""
    from edgehone_agent.transport import open_source

    found: dict[str, Callable[[], object]] = {}
    tls, broker, settings_cert = _tls(settings), _broker_tls(settings), _cert(settings)
    if settings.registry is not None and (settings.registry_ca is not None or settings_cert is not None):
        found["registry tls"] = functools.partial(
            open_source, settings.registry, ca=settings.registry_ca, cert=settings_cert
        )
    if tls is not None:
        found["serve tls"] = tls.context
    if broker is not None:
        found["mqtt tls"] = broker.context
    return found


def _open_capture(settings: Settings) -> Capture | None:
    wanted = settings.capture
    if not wanted.enabled:
        return None
    try:
        key = read_key(settings.state / "key")
    except StateError as error:
        log.warning("nothing is captured: %s", error.what, extra={"where": error.where})
        return None
    return Capture(settings.state / "capture", key=key, max_bytes=wanted.max_bytes, max_age_s=wanted.max_age_s)


def _open_bridge(settings: Settings, node: Node, limits: Limits) -> MqttBridge | None:
    told = settings.mqtt
    if told.broker is None:
        return None
    from edgehone_agent.serve.mqtt import MqttBridge, MqttSettings

    name = told.node or socket.gethostname()
    to = MqttSettings(node=name, broker=told.broker, tls=_broker_tls(settings), prefix=told.prefix)
    return MqttBridge(node, to, limits)


def _broker_tls(settings: Settings) -> BrokerTls | None:
    from edgehone_agent.serve.mqtt import BrokerTls

    told = settings.mqtt
    if told.ca is None or told.cert is None or told.key is None:
        return None
    return BrokerTls(told.ca, told.cert, told.key)


def _cert(settings: Settings) -> tuple[Path, Path] | None:
    """This node's certificate and key for the registry."""
    if settings.registry_cert is None or settings.registry_key is None:
        return None
    return settings.registry_cert, settings.registry_key
