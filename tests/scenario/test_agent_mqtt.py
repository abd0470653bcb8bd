"""`edgehone-agent run` with a table [mqtt], against a real mosquitto that comes, goes and asks for certificates."""

from __future__ import annotations

import json
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paho.mqtt import client as paho

from edgehone.testing.agents import TASK, Field
from edgehone.testing.brokers import Broker, find_mosquitto
from edgehone.testing.bundles import Made
from edgehone.testing.certificates import Authority
from edgehone_agent.serve.mqtt import BrokerTls

pytestmark = pytest.mark.slow

NODE = "n7"
IN, OUT = f"edgehone/{NODE}/{TASK}/in", f"edgehone/{NODE}/{TASK}/out"


class Site:
    """A node with one version, a broker with certificates of one authority, and a device that asks."""

    def __init__(self, folder: Path, closing: ExitStack) -> None:
        self.field, self._closing = Field(folder), closing
        closing.callback(self.field.close)
        self.authority = Authority.make(folder / "ca")
        cert, key = self.authority.issue("broker")
        self.broker = Broker(
            folder, f"cafile {self.authority.ca}", f"certfile {cert}", f"keyfile {key}", "require_certificate true",
            "use_identity_as_username true",
        )  # fmt: skip
        closing.callback(self.broker.stop)
        self.made: Made = self.field.publish(1)

    def start_agent(self, **changed: Path) -> None:
        """From a config file whose certificates are named relative to it."""
        cert, key = self.authority.issue(NODE)
        files = {"ca": self.authority.ca, "cert": cert, "key": key, **changed}
        lines = [f'{name} = "{os.path.relpath(file, self.field.folder)}"' for name, file in files.items()]
        config = self.field.folder / "agent.toml"
        config.write_text("\n".join(["[mqtt]", f'broker = "{self.broker.address}"', f'node = "{NODE}"', *lines, ""]))
        self.field.start("--config", str(config))

    def device(self) -> Any:
        """A connected client and the queue that answers come into."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        answers: queue.Queue[dict[str, Any]] = queue.Queue()
        subscribed: queue.Queue[int] = queue.Queue()
        client.tls_set_context(BrokerTls(self.authority.ca, *self.authority.issue("d1")).context())
        client.on_message = lambda _client, _data, message: answers.put(json.loads(message.payload))
        client.on_connect = lambda client, *_: client.subscribe(OUT, qos=1)
        client.on_subscribe = lambda *_: subscribed.put(1)
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        self._closing.callback(client.loop_stop)
        self._closing.callback(client.disconnect)
        subscribed.get(timeout=10)
        return client, answers

    def ask(self, client: Any, answers: queue.Queue[dict[str, Any]], name: str, limit_s: float = 30.0) -> None:
        """Send a reading until it is answered, for nobody keeps it before the agent's first connection."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            client.publish(IN, json.dumps({"id": name, "data": self.made.x.tolist()}), qos=1)
            try:
                found = answers.get(timeout=1.0)
                while found["id"] != name:  # a late answer to an earlier sending
                    found = answers.get(timeout=1.0)
            except queue.Empty:
                continue
            assert found["model_digest"] == self.made.digest and found["model_version"] == "1", found
            np.testing.assert_allclose(found["data"], self.made.y, rtol=1e-5)
            return
        pytest.fail(f"no answer over MQTT: {self.field.log.read_text()[-2000:]}")


@pytest.fixture
def site() -> Iterator[Site]:
    find_mosquitto()
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    with ExitStack() as closing:
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Site(folder, closing)


def test_readings_are_answered_over_a_broker_that_comes_late_goes_away_and_comes_back(site: Site) -> None:
    site.start_agent()
    site.field.wait_for(1)  # it serves without its broker
    for round in range(2):
        site.broker.start()
        client, answers = site.device()
        site.ask(client, answers, f"r{round}", 60)
        site.broker.stop()
        assert site.field.version() == 1
    site.broker.start()
    client, answers = site.device()
    site.ask(client, answers, "last", 60)
    assert site.field.stop() == 0
    log = site.field.log.read_text()
    assert "disconnected from the broker" in log and "Traceback" not in log


def test_a_node_the_broker_does_not_know_serves_on_and_says_so(site: Site) -> None:
    cert, key = Authority.make(site.field.folder / "stranger").issue(NODE)
    site.broker.start()
    site.start_agent(cert=cert, key=key)
    site.field.wait_for(1)
    client, answers = site.device()
    client.publish(IN, json.dumps({"data": site.made.x.tolist()}), qos=1).wait_for_publish(10)
    with pytest.raises(queue.Empty):
        answers.get(timeout=2)
    assert site.field.version() == 1 and site.field.stop() == 0
    assert "Traceback" not in site.field.log.read_text()


@pytest.mark.parametrize("what", ["ca", "cert", "key"])
def test_a_file_that_is_not_there_is_named_and_nothing_is_blamed_for_it(what: str, site: Site) -> None:
    site.field.start()
    site.field.wait_for(1)
    assert site.field.stop() == 0
    missing = site.field.folder / "nowhere" / "x.pem"
    for _ in range(3):
        site.start_agent(**{what: missing})
        assert site.field.running().wait(30) == 4
    log = site.field.log.read_text()
    assert "edgehone-agent: EH175" in log and str(missing) in log and "Traceback" not in log
    site.field.start()
    assert site.field.wait_for_answer(15)[0] == 1 and site.field.task()["trial"]["deaths"] == 0
