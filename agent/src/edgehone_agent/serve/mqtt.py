"""Readings in and answers out over MQTT 5, with the library paho (extra `mqtt`).

    with MqttBridge(host, MqttSettings(node="n7", broker="broker.example:8883", tls=BrokerTls(ca, cert, key))):
        ...

Topics: `<prefix>/<node>/<task>/in` and `.../out`; a reading's response topic takes the place of the latter, and its
correlation data comes back with the answer. Rules:
- Each task reads from a connection of its own, on its own thread, so that a slow model delays no other. Answers leave
  over one more.
- QoS 1: a reading is acknowledged when the broker has taken its answer. Until then the broker keeps it, also while this
  node is away (for `session_s`); after a cut both may come twice, and `id` tells.
- A task has at most `Limits.queue` answers that the broker has not taken. Then its thread waits and reads no more, so
  TCP holds the sender back. (The window that MQTT 5 has for this is asked for too, but brokers overrun it.)
- A reading that cannot be answered gets {"id", "error", "code"} and is acknowledged: it would not get better.
- Connections come back by themselves, after 1 s, then 2, 4, ... up to 60 s.
- A broker that is not on this machine needs TLS with a client certificate.
"""

from __future__ import annotations

import importlib
import json
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgehone_agent.errors import BusyError, ConfigError, EdgehoneError, MissingExtraError
from edgehone_agent.serve import oip
from edgehone_agent.serve.host import Host, Metric
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.listen import parse_address
from edgehone_agent.serve.readings import id_in, read_reading, write_answer
from edgehone_agent.serve.tls import load_authorities, load_certificate

log = logging.getLogger("edgehone_agent.serve.mqtt")

_KEEPALIVE_S = 60
_STOP_S = 0.2  # how often a thread that waits for room looks whether it shall stop
_RETRY_S = (1, 60)
_NO_RETAINED = 2  # subscription option: what was said before we came is no reading of now


@dataclass(frozen=True)
class BrokerTls:
    """PEM files: who signed the broker's certificate, and the node's own certificate and key."""

    ca: Path
    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """A client context that checks the broker's name. Raises ConfigError when a file cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        load_authorities(context, self.ca)
        load_certificate(context, self.cert, self.key)
        return context


@dataclass(frozen=True)
class MqttSettings:
    """Where the broker is and what the node is called there.

    Attributes:
        node: the node's name, a level of its topics.
        broker: "host:port".
        tls: needed unless the broker is on this machine.
        prefix: first levels of the topics.
        session_s: how long the broker keeps readings for a node that is away.
    """

    node: str
    broker: str
    tls: BrokerTls | None = None
    prefix: str = "edgehone"
    session_s: int = 3600

    def __post_init__(self) -> None:
        address = parse_address(self.broker)
        if address.path:
            raise ConfigError("MQTT needs a host and a port", where=self.broker, do="write broker.example:8883")
        if not address.is_local and self.tls is None:
            raise ConfigError(
                "this broker is on another machine, which needs TLS with a client certificate",
                where=self.broker,
                do="set ca, cert and key of the broker, or use one on this machine",
            )
        for name, text, refused in (("node", self.node, "+#/\0"), ("prefix", self.prefix, "+#\0")):
            if not text or set(text) & set(refused):
                raise ConfigError(
                    f"{text!r} cannot be part of a topic", where=name, do="use letters, digits, '.', '_' and '-'"
                )

    def topic(self, task: str, way: str) -> str:
        """Topic of a task's readings ("in") or answers ("out")."""
        return f"{self.prefix}/{self.node}/{task}/{way}"


class MqttBridge:
    """All tasks of a host on one broker, from `start` to `stop`.

    Raises:
        MissingExtraError: paho is not installed.
        ConfigError: a file of `tls` cannot be used.
    """

    def __init__(self, host: Host, settings: MqttSettings, limits: Limits | None = None) -> None:
        context = settings.tls.context() if settings.tls else None
        self._address = parse_address(settings.broker)
        self._answers = _Answers(_client(f"edgehone/{settings.node}", context))
        self._tasks = [_Task(host, name, settings, limits or Limits(), self._answers, context) for name in host.tasks()]

    def start(self) -> None:
        """Connect in the background; a broker that is not there yet is tried again."""
        self._answers.start(self._address.host, self._address.port)
        for task in self._tasks:
            task.start(self._address.host, self._address.port)

    def stop(self) -> None:
        """Answer what is being answered, then disconnect. The broker keeps what comes later for `session_s`."""
        for task in self._tasks:
            task.stop()
        self._answers.stop()

    def is_connected(self) -> bool:
        """Whether every task is connected and subscribed, and answers can leave."""
        return self._answers.is_ready.is_set() and all(task.is_ready.is_set() for task in self._tasks)

    def metrics(self) -> tuple[Metric, ...]:
        """Counts of readings and answers by task, and whether it is connected."""
        counts = {
            name: tuple(({"task": task.name}, float(task.counts[name])) for task in self._tasks)
            for name in ("readings", "answers", "errors", "refused")
        }
        connected = tuple(({"task": task.name}, float(task.is_ready.is_set())) for task in self._tasks)
        return (
            Metric("edgehone_mqtt_readings_total", "counter", "Readings that came.", counts["readings"]),
            Metric("edgehone_mqtt_answers_total", "counter", "Answers that the broker has taken.", counts["answers"]),
            Metric("edgehone_mqtt_errors_total", "counter", "Readings answered with an error.", counts["errors"]),
            Metric("edgehone_mqtt_refused_total", "counter", "Answers that the broker refused.", counts["refused"]),
            Metric("edgehone_mqtt_connected", "gauge", "1 when connected and subscribed.", connected),
        )

    def __enter__(self) -> MqttBridge:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _paho(module: str) -> Any:
    try:
        return importlib.import_module(f"paho.mqtt.{module}")
    except ImportError as error:
        raise MissingExtraError("MQTT needs paho", do='pip install "edgehone-agent[mqtt]"') from error


def _client(name: str, context: ssl.SSLContext | None) -> Any:
    paho = _paho("client")
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5, manual_ack=True)
    client.suppress_exceptions = True  # a defect costs one reading, not the thread
    client.reconnect_delay_set(*_RETRY_S)
    client.max_queued_messages_set(0)  # bounded by what the tasks hand in
    client.on_socket_open = _send_at_once
    if context is not None:
        client.tls_set_context(context)
    return client


def _send_at_once(_client: object, _data: object, connection: socket.socket) -> None:
    """Small packets wait 40 ms for each other otherwise."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _properties(packet: str) -> Any:
    return _paho("properties").Properties(getattr(_paho("packettypes").PacketTypes, packet))


class _Answers:
    """The connection over which answers leave. `send` is called from the tasks' threads."""

    def __init__(self, client: Any) -> None:
        self.is_ready = threading.Event()
        self._client = client
        self._callers: dict[int, Callable[[bool], None]] = {}  # by packet, until the broker has it
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish = self._on_publish

    def start(self, host: str, port: int) -> None:
        self._client.connect_async(host, port, keepalive=_KEEPALIVE_S, clean_start=True)
        self._client.loop_start()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.is_ready.clear()

    def send(self, topic: str, content: str, properties: Any, taken: Callable[[bool], None]) -> None:
        """Publish; `taken` is called once, from either thread, with whether the broker accepts it."""
        mid = self._client.publish(topic, content, qos=1, properties=properties).mid
        # The broker's word may have come before this line. Whoever comes second finds what the first has left; no lock,
        # because paho holds one of its own in each of the two places.
        found = self._callers.setdefault(mid, taken)
        if found is not taken:
            del self._callers[mid]
            taken(found is _ACCEPTED)

    def _on_publish(self, _client: object, _data: object, mid: int, reason: Any, _properties: object) -> None:
        mine = _REFUSED if reason.is_failure else _ACCEPTED
        if reason.is_failure:
            log.warning("the broker refuses an answer: %s", reason)
        found = self._callers.setdefault(mid, mine)
        if found is not mine:
            del self._callers[mid]
            found(mine is _ACCEPTED)

    def _on_connect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            log.warning("the broker refuses this node: %s", reason)
        else:
            self.is_ready.set()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self.is_ready.clear()
        log.info("disconnected from the broker: %s", reason)


def _ACCEPTED(_: bool) -> None:  # noqa: N802  # two marks of the type that a caller has
    """Left by the broker's word when it comes before its caller."""


def _REFUSED(_: bool) -> None:  # noqa: N802
    """The same, for an answer that the broker does not take."""


class _Task:
    """One task's readings. paho calls the `_on_...` methods, all from the connection's own thread."""

    def __init__(
        self,
        host: Host,
        name: str,
        settings: MqttSettings,
        limits: Limits,
        answers: _Answers,
        context: ssl.SSLContext | None,
    ) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.is_ready = threading.Event()
        self._host = host
        self._limits = limits
        self._settings = settings
        self._answers = answers
        self._room = threading.Semaphore(limits.queue)
        self._is_stopping = False
        self._session = 0  # counts connections: packets of an earlier one must not be acknowledged
        client = self._client = _client(f"edgehone/{settings.node}/{name}", context)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_message = self._on_subscribe, self._on_message

    def start(self, host: str, port: int) -> None:
        properties = _properties("CONNECT")
        properties.SessionExpiryInterval = self._settings.session_s
        properties.ReceiveMaximum = min(self._limits.queue, 65535)
        properties.MaximumPacketSize = self._limits.body_bytes
        self._client.connect_async(host, port, keepalive=_KEEPALIVE_S, clean_start=False, properties=properties)
        self._client.loop_start()

    def stop(self) -> None:
        self._is_stopping = True
        self._client.disconnect()
        self._client.loop_stop()
        self.is_ready.clear()

    def _on_connect(self, client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self._session += 1
        if reason.is_failure:
            log.warning("the broker refuses task %s: %s", self.name, reason, extra={"task": self.name})
            return
        options = _paho("subscribeoptions").SubscribeOptions(qos=1, retainHandling=_NO_RETAINED)
        client.subscribe(self._settings.topic(self.name, "in"), options=options)

    def _on_subscribe(self, _client: object, _data: object, _mid: int, reasons: list[Any], _properties: object) -> None:
        if any(reason.is_failure for reason in reasons):
            log.warning("the broker refuses the topic of task %s: %s", self.name, reasons, extra={"task": self.name})
        else:
            self.is_ready.set()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self.is_ready.clear()
        log.info("disconnected from the broker: %s", reason, extra={"task": self.name})

    def _on_message(self, _client: object, _data: object, message: Any) -> None:
        self.counts["readings"] += 1
        name = ""
        said: dict[str, Any] = {"error": "the node has a defect; its log has the details", "code": "EH000"}
        try:
            name = oip.short_id(_user_properties(message).get("id", ""))
            said = self._answer(message)
        except EdgehoneError as error:
            text = f"{error.where}: {error.what}" if error.where else error.what
            said = {"error": text, "code": error.code}
        finally:
            if "error" in said:
                self.counts["errors"] += 1
                said = {"id": name or id_in(message.payload), **said}
                if said["code"] == "EH000":
                    log.error("a defect while answering a reading", exc_info=True, extra={"task": self.name})
            self._send(message, said)

    def _answer(self, message: Any) -> dict[str, Any]:
        if not self._host.ready(self.name):
            raise BusyError("has no model that answers yet", where=self.name)
        manifest = self._host.manifest(self.name)
        kind = getattr(message.properties, "ContentType", "")
        query = read_reading(message.payload, kind, _user_properties(message), manifest, self._limits)
        return write_answer(self._host.infer(self.name, query.x, top_k=query.top_k), query, manifest)

    def _send(self, reading: Any, said: dict[str, Any]) -> None:
        while not self._room.acquire(timeout=_STOP_S):
            if self._is_stopping:  # not acknowledged: it comes again
                return
        properties = _properties("PUBLISH")
        properties.ContentType = "application/json"
        correlation = getattr(reading.properties, "CorrelationData", None)
        if correlation is not None:
            properties.CorrelationData = correlation
        topic = self._settings.topic(self.name, "out")
        wanted = getattr(reading.properties, "ResponseTopic", "")
        if wanted and not set(wanted) & set("+#"):
            topic = wanted
        session, mid = self._session, reading.mid if reading.qos else 0

        def taken(is_accepted: bool) -> None:
            self._room.release()
            self.counts["answers" if is_accepted else "refused"] += 1
            if mid and session == self._session:
                self._client.ack(mid, 1)

        self._answers.send(topic, json.dumps(said, separators=(",", ":")), properties, taken)


def _user_properties(message: Any) -> dict[str, str]:
    return dict(getattr(message.properties, "UserProperty", ()))
