"""`edgehone devices` through the real entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgehone.cli.main import main
from edgehone.devices import device_names


def test_the_list_shows_every_device_and_how_its_latency_comes_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["device", "class", "memory", "flash", "runtimes", "latency"]
    rows = {line.split()[0]: line.split()[-1] for line in lines[1 : 1 + len(device_names())]}
    assert set(rows) == set(device_names())
    assert rows["this-machine"] == "measured"
    assert {latency for name, latency in rows.items() if name != "this-machine"} == {"estimated"}


def test_one_profile_shows_values_provenance_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "stm32h7"]) == 0
    text = capsys.readouterr().out
    clock = next(line.split() for line in text.splitlines() if "clock_mhz" in line)
    assert clock[:3] == ["clock_mhz", "280", "datasheet"]
    assert any(line.startswith(f"{clock[3]} ") and "DS13195" in line for line in text.splitlines())
    assert "125 mW (122 mW to 136 mW)" in text
    assert "latency under x-cube-ai is estimated" in text
    assert "github.com/mlcommons/tiny_results_v1.2" in text


def test_this_machine_says_that_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "this-machine"]) == 0
    text = capsys.readouterr().out
    assert "latency here is measured, never estimated" in text
    assert "not known" in text


def test_json_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [device["name"] for device in listed] == list(device_names())
    assert main(["devices", "raspberry-pi-4", "--json"]) == 0
    device = json.loads(capsys.readouterr().out)
    assert (device["class"], device["latency"]) == ("linux", "estimated")
    assert device["hardware"]["clock_mhz"]["value"] == 1800
    assert device["costs"][0]["runtime"] == "litert"


def test_a_profile_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my_board.toml"
    file.write_text('title = "Mine"\n', encoding="utf-8")
    assert main(["devices", str(file)]) == 4
    error = capsys.readouterr().err
    assert "my_board.toml" in error and "class: is missing" in error


def test_an_unknown_name_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "raspbery-pi-4"]) == 4
    error = capsys.readouterr().err
    assert "did you mean 'raspberry-pi-4'?" in error and "Traceback" not in error


def test_no_torch_is_needed() -> None:
    code = "import sys; from edgehone.cli.main import main; main(['devices']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
