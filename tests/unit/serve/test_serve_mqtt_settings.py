"""Settings of the MQTT bridge that are refused before anything connects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgehone.testing.certificates import Authority
from edgehone.testing.hosts import FileHost
from edgehone_agent.errors import ConfigError, MissingExtraError
from edgehone_agent.serve.mqtt import BrokerTls, MqttBridge, MqttSettings


def test_topics() -> None:
    settings = MqttSettings("n7", "localhost:1883", prefix="plant/a")
    assert settings.topic("gestures", "in") == "plant/a/n7/gestures/in"


@pytest.mark.parametrize("node", ["", "a/b", "+", "#", "a\0"])
def test_names_that_are_no_level_of_a_topic(node: str) -> None:
    with pytest.raises(ConfigError, match="cannot be part of a topic"):
        MqttSettings(node, "localhost:1883")


def test_a_broker_elsewhere_needs_certificates(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TLS with a client certificate"):
        MqttSettings("n7", "broker.example:1883")
    authority = Authority.make(tmp_path)
    MqttSettings("n7", "broker.example:8883", BrokerTls(authority.ca, *authority.issue("n7")))


@pytest.mark.parametrize("broker", ["localhost", "unix:/run/mosquitto.sock"])
def test_a_broker_is_a_host_and_a_port(broker: str) -> None:
    with pytest.raises(ConfigError):
        MqttSettings("n7", broker)


def test_files_that_cannot_be_used_are_named(host: FileHost, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    tls = BrokerTls(tmp_path / "missing.pem", *authority.issue("n7"))
    with pytest.raises(ConfigError) as caught:
        MqttBridge(host, MqttSettings("n7", "localhost:1883", tls))
    assert caught.value.where == str(tmp_path / "missing.pem")


def test_without_paho_the_extra_is_named(host: FileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingExtraError) as caught:
        MqttBridge(host, MqttSettings("n7", "localhost:1883"))
    assert "edgehone-agent[mqtt]" in caught.value.do
