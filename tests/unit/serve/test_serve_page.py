"""What docs/formats/serving.md and the how-to say is what the code does and what was measured."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from edgehone.testing.hosts import FileHost
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.mqtt import MqttBridge, MqttSettings
from edgehone_agent.serve.oip import DTYPES
from edgehone_agent.serve.traffic import Traffic

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/formats/serving.md").read_text()


def test_every_bound_stands_there_with_its_default() -> None:
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "": 1}
    rows = re.findall(r"^\| (\w+) \| (\d+) ?(KiB|MiB|) \| ", PAGE, re.MULTILINE)
    assert {name: int(number) * units[unit] for name, number, unit in rows} == {
        field.name: getattr(Limits(), field.name) for field in fields(Limits)
    }


def test_every_metric_stands_there(host: FileHost) -> None:
    bridge = MqttBridge(host, MqttSettings("n", "localhost:1883"))
    for metric in (*Traffic().metrics(0), *bridge.metrics()):
        assert metric.name in PAGE


def test_every_datatype_stands_there() -> None:
    assert all(re.search(rf"\b{name}\b", PAGE) for name in DTYPES)


def test_the_costs_in_the_how_to_are_those_measured() -> None:
    text = (ROOT / "docs/how-to/ask-the-node.md").read_text()
    result = json.loads((ROOT / "benchmarks/results/serving.json").read_text())
    said = [int(number) for number in re.findall(r"(\d+) µs", text)]
    doors = ("unix json", "http json", "host.infer in process", "tritonclient http json")
    assert said == [round(result["doors"][door]["p50_us"]) for door in doors]
    assert f"{result['requests']:,} requests" in text
    for name, budget_us in result["budget_p50_us"].items():
        assert result["doors"][f"{name} json"]["p50_us"] <= budget_us
