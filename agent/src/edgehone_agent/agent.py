"""The agent: a node that serves, keeps itself up to date, and stops when it is told to.

    run_agent(read_settings(Path("agent.toml")))      # until SIGTERM or SIGINT

Order: lock the folder → load what is there → listen → look at the registry, again and again. Serving never waits for
the registry. SIGTERM and SIGINT let running requests end; SIGHUP reads requests from commands and looks at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone_agent import __version__
from edgehone_agent.capture import Capture, read_key
from edgehone_agent.config import Settings, redacted, socket_path
from edgehone_agent.errors import ConfigError, StateError
from edgehone_agent.lock import lock_owner
from edgehone_agent.node import Node
from edgehone_agent.requests import answer_all
from edgehone_agent.serve.limits import Limits
from edgehone_agent.updates import Updates, first_wait_s, wait_s

if TYPE_CHECKING:
    from edgehone_agent.serve.mqtt import MqttBridge
    from edgehone_agent.serve.tls import Tls
    from edgehone_agent.verify import Verifier

log = logging.getLogger("edgehone_agent.agent")

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
        raise StateError(
            f"another agent runs with this folder (process {owner})",
            where=str(settings.state),
            do="stop it, or give this one a folder of its own: --state FOLDER",
        )
    with ExitStack() as stack:
        capture = _open_capture(settings)
        if capture is not None:
            stack.callback(capture.close)
        node = Node(
            settings.state, tasks=settings.tasks, threads=settings.threads, sessions=settings.sessions,
            watch=settings.watch.enabled, capture=capture,
        )  # fmt: skip
        stack.enter_context(node)
        if not node.tasks():
            raise ConfigError(
                "there is no task to serve",
                where=str(settings.state),
                do="name a registry, its root and a task: --registry URL --root root.json --task NAME",
            )
        for name, told in node.status()["tasks"].items():
            word = f"version {told['version']} answers" if told["ready"] else told["fault"] or "no model yet"
            log.log(logging.INFO if told["ready"] or not told["fault"] else logging.WARNING, "%s: %s", name, word)
        if node.fault:
            log.warning("the state folder cannot be written, so nothing is updated: %s", node.fault)
        asyncio.run(Agent(settings, node, capture, rng or random.Random()).run())


class Agent:
    """The loop around a node; see the module."""

    def __init__(self, settings: Settings, node: Node, capture: Capture | None, rng: random.Random) -> None:
        self._settings, self._node, self._capture, self._rng = settings, node, capture, rng
        self._stop, self._look_now, self._asked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_stopping = False
        self._registry: dict[str, Any] = {}
        self._listening: list[str] = []
        self._tell()

    async def run(self) -> None:
        """Serve and update until a signal. Raises as `run_agent`."""
        from edgehone_agent.serve.app import serve

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, functools.partial(self._end, number))
        loop.add_signal_handler(signal.SIGHUP, self._woken)
        settings = self._settings
        limits = Limits(**settings.serve.limits)  # type: ignore[arg-type]  # checked by the settings
        bridge = _open_bridge(settings, self._node, limits)
        work = [asyncio.create_task(self._keep_up_to_date()), asyncio.create_task(self._answer_requests())]
        for task in work:
            task.add_done_callback(self._ended)
        try:
            if bridge is not None:
                bridge.start()
            await serve(
                self._node, _addresses(settings), tls=_tls(settings), limits=limits, stop=self._stop, ready=self._ready
            )
        finally:
            self._end(None)
            if bridge is not None:
                bridge.stop()
            await asyncio.wait(work)
        for task in work:
            task.result()  # a defect of theirs was logged when it happened, and is the process's exit code

    def _end(self, number: int | None) -> None:
        if number is not None:
            log.info("stopping: %s", signal.Signals(number).name)
        self._is_stopping = True
        for event in (self._stop, self._look_now, self._asked):
            event.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = task.exception()
        if error is not None:  # serving goes on: answers are worth more than updates
            log.error("a defect stopped the updates", exc_info=error)
            self._registry["defect"] = repr(error)
            self._tell()

    def _woken(self) -> None:
        self._asked.set()
        self._look_now.set()

    def _ready(self, listening: list[str]) -> None:
        self._listening = listening
        self._tell()

    async def _keep_up_to_date(self) -> None:
        if self._settings.registry is None:
            return
        from edgehone_agent.fit import describe_node

        updates = Updates(
            self._node,
            self._open_verifier,
            facts=functools.partial(describe_node, memory_bytes=self._settings.memory_bytes),
            stopping=lambda: self._is_stopping,
        )
        wait = first_wait_s(self._settings.poll_s, self._node.ready(), self._rng)
        while not self._is_stopping:
            await _pause(self._look_now, wait)
            if self._is_stopping:
                break
            self._registry["looking"] = True
            self._tell()
            self._registry["tasks"] = await asyncio.to_thread(updates.look)
            self._registry["looked_at_s"] = time.time()
            wait = wait_s(self._settings.poll_s, updates.failures, self._rng)
            self._registry |= {"looking": False, "failures": updates.failures}
            self._tell()

    async def _answer_requests(self) -> None:
        """Do what commands ask for, at once when woken, else with a look every few seconds."""
        acts = {"roll back": self._roll_back, "export": self._export, "look": lambda _: {}}
        while not self._is_stopping:
            try:
                await asyncio.to_thread(answer_all, self._settings.state, acts)
            except StateError as error:
                log.warning("requests cannot be answered: %s", error.what, extra={"where": error.where})
            await _pause(self._asked, _REQUESTS_S)

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

        settings = self._settings
        if settings.registry is None or settings.root is None:
            raise ConfigError("there is no registry", where="registry", do="name one: --registry URL")
        cert = None
        if settings.registry_cert is not None and settings.registry_key is not None:
            cert = (settings.registry_cert, settings.registry_key)
        source = open_source(settings.registry, ca=settings.registry_ca, cert=cert)
        return Verifier(settings.state, source, read_root(settings.root))

    def _tell(self) -> None:
        """Put what the agent knows beside what the node knows."""
        registry = None
        if self._settings.registry is not None:
            registry = {"address": redacted(self._settings.registry), **self._registry}
        self._node.notes = {
            "agent": __version__,
            "process": os.getpid(),
            "listening": self._listening,
            "registry": registry,
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
    from edgehone_agent.serve.mqtt import BrokerTls, MqttBridge, MqttSettings

    tls = None
    if told.ca is not None and told.cert is not None and told.key is not None:
        tls = BrokerTls(told.ca, told.cert, told.key)
    name = told.node or socket.gethostname()
    return MqttBridge(node, MqttSettings(node=name, broker=told.broker, tls=tls, prefix=told.prefix), limits)
