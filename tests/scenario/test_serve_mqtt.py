"""Readings in and answers out through a real mosquitto on loopback, which each test starts and stops."""

from __future__ import annotations

import json
import queue
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgehone.testing.brokers import Broker
from edgehone.testing.certificates import Authority
from edgehone.testing.hosts import FileHost, ServedFile, write_linear
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.mqtt import BrokerTls, MqttBridge, MqttSettings

pytestmark = pytest.mark.slow

READING = np.linspace(-1, 1, 20, dtype=np.float32)
IN, OUT = "edgehone/n7/gestures/in", "edgehone/n7/gestures/out"


class Device:
    """Whoever sends readings: keeps what comes back in `answers` as (topic, object, properties)."""

    def __init__(self, broker: Broker, *topics: str, tls: BrokerTls | None = None) -> None:
        self.answers: queue.Queue[tuple[str, Any, Any]] = queue.Queue()
        self.client: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_socket_open = lambda _client, _data, found: found.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        if tls:
            self.client.tls_set_context(tls.context())
        self.client.on_message = lambda _client, _data, message: self.answers.put(
            (message.topic, json.loads(message.payload), message.properties)
        )
        subscribed: queue.Queue[int] = queue.Queue()
        self.client.on_connect = lambda client, *_: [client.subscribe(topic, qos=1) for topic in topics]
        self.client.on_subscribe = lambda *_: subscribed.put(1)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        for _ in topics:
            subscribed.get(timeout=10)

    def send(self, payload: object, topic: str = IN, qos: int = 1, **properties: Any) -> None:
        with_these = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(with_these, name, value)
        content = payload if isinstance(payload, bytes) else json.dumps(payload)
        self.client.publish(topic, content, qos=qos, properties=with_these).wait_for_publish(10)

    def answer(self) -> tuple[str, Any, Any]:
        return self.answers.get(timeout=20)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def host(tmp_path: Path) -> FileHost:
    file = write_linear(tmp_path / "model.tflite")
    return FileHost({"gestures": ServedFile(file, ("rest", "swipe", "tap", "shake"), version=3)})


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Connect = Callable[..., Device]


@pytest.fixture
def broker(tmp_path: Path, closing: ExitStack) -> Broker:
    broker = Broker(tmp_path, "allow_anonymous true")
    broker.start()
    closing.callback(broker.stop)
    return broker


@pytest.fixture
def device(broker: Broker, closing: ExitStack) -> Device:
    device = Device(broker, OUT, "replies/#")
    closing.callback(device.close)
    return device


def bridge(host: FileHost, broker: Broker, **settings: Any) -> MqttBridge:
    limits = settings.pop("limits", None)
    return MqttBridge(host, MqttSettings("n7", broker.address, **settings), limits)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def connected(found: MqttBridge) -> None:
    wait_for(found.is_connected)


def count(found: MqttBridge, name: str) -> float:
    metrics = {metric.name: metric for metric in found.metrics()}
    return sum(value for _, value in metrics[f"edgehone_mqtt_{name}_total"].samples)


def test_every_form_of_a_reading_gets_the_models_answer(host: FileHost, broker: Broker, device: Device) -> None:
    two = np.stack([READING, -READING])
    forms: list[tuple[object, dict[str, Any], np.ndarray[Any, Any]]] = [
        ({"id": "r", "data": READING.tolist()}, {}, READING[None]),
        ({"id": "r", "data": READING.tolist(), "shape": [20]}, {}, READING[None]),
        ({"id": "r", "data": two.ravel().tolist(), "shape": [2, 20]}, {}, two),
        ({"id": "r", "data": two.tolist()}, {}, two),
        (two.tobytes(), {"UserProperty": [("id", "r"), ("shape", "2, 20")]}, two),
        (READING.tobytes(), {"UserProperty": [("id", "r"), ("shape", "20")]}, READING[None]),
        (two.tobytes(), {"UserProperty": ("id", "r"), "ContentType": "application/octet-stream"}, two),
    ]
    with bridge(host, broker) as found:
        connected(found)
        for payload, properties, values in forms:
            device.send(payload, **properties)
            topic, said, answer_properties = device.answer()
            assert (topic, said["id"], said["task"], said["model_version"]) == (OUT, "r", "gestures", "3")
            assert said["model_digest"] == host.digest("gestures")
            assert said["prediction_id"].startswith("p-")
            assert said["latency_us"] > 0
            assert answer_properties.ContentType == "application/json"
            np.testing.assert_array_equal(
                np.array(said["data"], np.float32).reshape(said["shape"]), host.infer("gestures", values).values
            )
            assert "top" not in said


def test_labels_where_they_are_asked_for(host: FileHost, broker: Broker, device: Device) -> None:
    with bridge(host, broker) as found:
        connected(found)
        device.send({"data": READING.tolist(), "top_k": 2})
        device.send(READING.tobytes(), UserProperty=[("shape", "1,20"), ("top_k", "2")])
        (_, first, _), (_, second, _) = device.answer(), device.answer()
        assert first["top"] == second["top"]
        assert first["confidence"] == [first["top"][0][0][1]]
        assert len(first["top"][0]) == 2
        assert first["id"] == first["prediction_id"]


def test_response_topic_and_correlation_data_come_back(host: FileHost, broker: Broker, device: Device) -> None:
    with bridge(host, broker) as found:
        connected(found)
        for payload in ({"data": READING.tolist()}, {"data": []}):
            device.send(payload, ResponseTopic="replies/d1", CorrelationData=b"\x00\xff7")
            topic, said, properties = device.answer()
            assert (topic, properties.CorrelationData) == ("replies/d1", b"\x00\xff7")
            assert ("error" in said) == (payload["data"] == [])


def test_readings_that_cannot_be_answered_say_why(host: FileHost, broker: Broker, device: Device) -> None:
    bad: list[tuple[object, dict[str, Any], str]] = [
        (b"\xff", {}, "no JSON"), (b"", {}, "no JSON"), ({"id": "r"}, {}, "data: is missing"),
        ({"id": "r", "data": [1.0]}, {}, "has shape"), ({"id": "r", "data": ["a"] * 20}, {}, "not FP32"),
        ({"id": "r", "data": [1e300] * 20}, {}, "NaN or infinite"),
        ({"id": 5, "data": [0] * 20}, {}, "id: is not a string"),
        ({"id": "r", "data": [0] * 20, "shape": ["x"]}, {}, "shape: expected [N, 20]"),
        (b"123", {"UserProperty": ("shape", "1,20")}, "no whole number of FP32"),
        (READING.tobytes(), {"UserProperty": ("shape", "1,x")}, "'x' is no whole number"),
        (READING.tobytes(), {"UserProperty": ("id", "i" * 300)}, "longer than 256"),
    ]  # fmt: skip
    with bridge(host, broker, limits=Limits(json_bytes=4000)) as found:
        connected(found)
        for payload, properties, text in [
            *bad,
            ({"id": "r", "data": [0.12345678] * 2000}, {}, "bytes of JSON are more"),
        ]:
            device.send(payload, **properties)
            said = device.answer()[1]
            assert text in said["error"] or text in "data: has shape has shape", said
            assert said["code"] == "EH100"
            if isinstance(payload, dict) and payload["id"] == "r" and "bytes of JSON" not in text:
                assert said["id"] == "r"
        host.unready.add("gestures")
        device.send({"id": "r", "data": READING.tolist()})
        assert device.answer()[1] == {"id": "r", "error": "gestures: has no model that answers yet", "code": "EH350"}
        assert count(found, "errors") == len(bad) + 2


def test_a_defect_costs_one_reading(
    host: FileHost, broker: Broker, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = host.infer

    def broken(*args: object, **settings: object) -> None:
        raise ZeroDivisionError("a defect")

    with bridge(host, broker) as found:
        connected(found)
        monkeypatch.setattr(host, "infer", broken)
        device.send({"id": "r1", "data": READING.tolist()})
        assert (said := device.answer()[1])["code"] == "EH000"
        assert said["id"] == "r1"
        monkeypatch.setattr(host, "infer", infer)
        device.send({"id": "r2", "data": READING.tolist()})
        assert device.answer()[1]["prediction_id"]


def test_many_readings_are_all_answered_through_a_small_window(host: FileHost, broker: Broker, device: Device) -> None:
    with bridge(host, broker, limits=Limits(queue=4)) as found:
        connected(found)
        for number in range(300):
            device.client.publish(IN, json.dumps({"id": f"r{number}", "data": READING.tolist()}), qos=1)
        names = [device.answer()[1]["id"] for _ in range(300)]
        assert names == [f"r{number}" for number in range(300)]
        assert count(found, "readings") == 300
        wait_for(lambda: count(found, "answers") == 300)


def test_a_slow_task_delays_no_other(tmp_path: Path, broker: Broker, closing: ExitStack) -> None:
    file = write_linear(tmp_path / "other.tflite")
    host = FileHost({"quick": ServedFile(file), "slow": ServedFile(file, delay_s=1.0)})
    device = Device(broker, "edgehone/n7/quick/out")
    closing.callback(device.close)
    with bridge(host, broker, limits=Limits(queue=2)) as found:
        connected(found)
        for _ in range(4):
            device.client.publish("edgehone/n7/slow/in", json.dumps({"data": READING.tolist()}), qos=1)
        time.sleep(0.2)
        started = time.monotonic()
        for _ in range(20):
            device.send({"data": READING.tolist()}, topic="edgehone/n7/quick/in")
            device.answer()
        assert time.monotonic() - started < 0.9
        assert count(found, "answers") < 24


def test_readings_that_come_while_the_node_is_away_are_answered_later(
    host: FileHost, broker: Broker, device: Device
) -> None:
    with bridge(host, broker) as found:
        connected(found)
    for number in range(5):
        device.send({"id": f"r{number}", "data": READING.tolist()})
    assert device.answers.empty()
    with bridge(host, broker):
        assert [device.answer()[1]["id"] for _ in range(5)] == [f"r{number}" for number in range(5)]


def test_retained_readings_of_the_past_are_not_answered(host: FileHost, broker: Broker, device: Device) -> None:
    device.client.publish(IN, json.dumps({"id": "old", "data": READING.tolist()}), qos=1, retain=True).wait_for_publish(
        10
    )
    with bridge(host, broker) as found:
        connected(found)
        device.send({"id": "new", "data": READING.tolist()})
        assert device.answer()[1]["id"] == "new"
        assert count(found, "readings") == 1


def test_it_comes_back_after_the_broker_was_away(host: FileHost, broker: Broker, closing: ExitStack) -> None:
    broker.stop()
    with bridge(host, broker) as found:
        time.sleep(0.3)
        assert not found.is_connected()
        for _ in range(2):  # a broker that comes late, and one that goes away
            broker.start()
            connected(found)
            device = Device(broker, OUT)
            device.send({"id": "r", "data": READING.tolist()})
            assert device.answer()[1]["id"] == "r"
            device.close()
            broker.stop()
            wait_for(lambda: not found.is_connected())


@pytest.mark.filterwarnings(  # paho leaves it to the garbage collector to close a socket whose handshake failed
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_certificates_both_ways(host: FileHost, tmp_path: Path, closing: ExitStack) -> None:
    authority = Authority.make(tmp_path / "ca")
    cert, key = authority.issue("broker")
    acl = tmp_path / "acl"
    acl.write_text("user n7\ntopic readwrite edgehone/n7/#\nuser d1\ntopic readwrite edgehone/n7/#\n")
    broker = Broker(
        tmp_path, f"cafile {authority.ca}", f"certfile {cert}", f"keyfile {key}", "require_certificate true",
        "use_identity_as_username true", f"acl_file {acl}",
    )  # fmt: skip
    broker.start()
    closing.callback(broker.stop)
    device = Device(broker, OUT, tls=BrokerTls(authority.ca, *authority.issue("d1")))
    closing.callback(device.close)
    with bridge(host, broker, tls=BrokerTls(authority.ca, *authority.issue("n7"))) as found:
        connected(found)
        device.send({"id": "r", "data": READING.tolist()})
        assert device.answer()[1]["id"] == "r"
        device.send({"id": "r", "data": READING.tolist()}, ResponseTopic="elsewhere/d1")  # the broker forbids it
        wait_for(lambda: count(found, "refused") == 1)
        device.send({"id": "r2", "data": READING.tolist()})
        assert device.answer()[1]["id"] == "r2"
    stranger = Authority.make(tmp_path / "stranger")
    for tls in (BrokerTls(authority.ca, *stranger.issue("n7")), BrokerTls(stranger.ca, *authority.issue("n7"))):
        with bridge(host, broker, tls=tls) as found:
            time.sleep(1.0)
            assert not found.is_connected()
