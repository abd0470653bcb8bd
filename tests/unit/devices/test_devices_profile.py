"""Profiles: what is read, what is refused and how, and where devices come from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

from edgehone.devices import catalogue, device_names, load_device, parse_device, read_device
from edgehone.devices.profile import Costs
from edgehone.errors import DeviceError
from edgehone.plugins import PluginError

PROFILES = Path(catalogue.__file__).parent
PI = (PROFILES / "raspberry_pi_4.toml").read_text(encoding="utf-8")
CORES = 'cores = { value = 4, provenance = "datasheet", source = "board" }'
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "device_costs.json"


def test_a_profile_is_read_with_its_sources_spelled_out() -> None:
    device = load_device("raspberry-pi-4")
    assert (device.name, device.kind, device.latency) == ("raspberry-pi-4", "linux", "estimated")
    assert device.runtimes == ("litert", "onnxruntime")
    clock = device.hardware.clock_mhz
    assert clock is not None and (clock.value, clock.provenance) == (1800, "datasheet")
    assert clock.source.startswith("Raspberry Pi documentation")
    assert device.hardware.active_power_mw is not None and device.hardware.active_power_mw.high == 5400


def test_this_machine_is_detected() -> None:
    device = load_device("this-machine")
    assert device.latency == "measured" and device.costs == ()
    assert device.hardware.cores.value == len(os.sched_getaffinity(0))
    total = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]) * 1024
    assert device.hardware.memory_bytes.value <= total * 1.01
    assert device.hardware.memory_bytes.provenance == "measured"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Raspberry Pi 4 Model B"', "", "title: is missing"),
        ('title = "Raspberry Pi 4 Model B"', 'title = ""', "title: is empty"),
        ('title = "Raspberry Pi 4 Model B"', "title = 4", "title: 4 is not what belongs here"),
        ('class = "linux"', 'class = "phone"', "class: 'phone' is not known"),
        ('class = "linux"', 'klass = "linux"', "klass: nobody knows this key"),
        ('class = "linux"', 'class = "linux"\ndetected = "yes"', "detected: 'yes' is neither"),
        ('class = "linux"', 'class = "linux"\ndetected = true', "hardware: a detected device states no hardware"),
        ('class = "linux"', 'class = "linux"\npublished = 1', "published: must be an array of tables"),
        ('runtimes = ["litert", "onnxruntime"]', "runtimes = []", "runtimes: must be a list"),
        (
            'runtimes = ["litert", "onnxruntime"]',
            'runtimes = ["onnxruntime"]',
            "'litert' has figures but is not listed",
        ),
        (CORES, "", "hardware.cores: is missing"),
        (CORES, "cores = 4", "hardware.cores must be a table"),
        (CORES, CORES.replace("value = 4, ", ""), "hardware.cores.value: None is not a number above zero"),
        (CORES, CORES.replace("4", "-4"), "hardware.cores.value: -4 is not a number above zero"),
        (CORES, CORES.replace("4", "nan"), "hardware.cores.value: nan is not a number above zero"),
        (CORES, CORES.replace("4", "true"), "hardware.cores.value: True is not a number above zero"),
        (CORES, CORES.replace('provenance = "datasheet", ', ""), "hardware.cores.provenance: is missing"),
        (CORES, CORES.replace("datasheet", "hearsay"), "hardware.cores.provenance: 'hearsay' is not known"),
        (
            CORES,
            CORES.replace('source = "board"', 'source = "memory"'),
            "hardware.cores.source: 'memory' is not listed",
        ),
        (CORES, CORES.replace("value = 4", "value = 4, low = 5"), "hardware.cores.value: lies outside its own bounds"),
        (CORES, CORES.replace("value = 4", "value = 4, unit = 1"), "hardware.cores.unit: nobody knows this key"),
        ("clock_mhz", "clock_ghz", "hardware.clock_ghz: nobody knows this key"),
        ("[cost.litert]", "[cost.litert]\nconv3x3 = 1", "cost.litert.conv3x3: nobody knows this key"),
        ("factor = { value = 3.0", "factor = { value = 0.3", "cost.litert.factor: no estimate is better than exact"),
        ('title = "Raspberry', "title = Raspberry", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(old: str, new: str, message: str) -> None:
    assert old in PI
    with pytest.raises(DeviceError) as caught:
        parse_device(PI.replace(old, new, 1), name="x", where="my.toml")
    assert message in caught.value.what
    assert caught.value.where == "my.toml"


def test_a_slip_of_the_pen_gets_a_suggestion() -> None:
    with pytest.raises(DeviceError) as caught:
        parse_device(PI.replace("clock_mhz", "clock_mhs"), name="x", where="my.toml")
    assert caught.value.do == "did you mean 'clock_mhz'?"


def test_costs_need_a_clock() -> None:
    without = "\n".join(line for line in PI.splitlines() if not line.startswith("clock_mhz"))
    with pytest.raises(DeviceError, match="the clock must be known"):
        parse_device(without, name="x", where="my.toml")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DeviceError) as caught:
        load_device("rasberry_pi_4")
    assert "did you mean 'raspberry-pi-4'?" in caught.value.do
    assert all(name in caught.value.do for name in device_names())
    with pytest.raises(DeviceError) as caught:
        load_device("toaster")
    assert "did you mean" not in caught.value.do


def test_a_path_loads_the_users_own_profile(tmp_path: Path) -> None:
    file = tmp_path / "my_board.toml"
    file.write_text(PI, encoding="utf-8")
    assert load_device(str(file)).name == "my-board"


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        load_device(str(tmp_path / "nothing.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="cannot be read"):
        read_device(binary)


def _install(monkeypatch: pytest.MonkeyPatch, folder: Path, file: str) -> None:
    """A package with one profile, announced by an entry point."""
    package = folder / "some_boards"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / file).write_text(PI, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "some_boards", raising=False)
    entry = importlib.metadata.EntryPoint("boards", "some_boards", catalogue.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == catalogue.GROUP else [])


def test_a_package_adds_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, tmp_path, "odroid_c4.toml")
    assert "odroid-c4" in device_names()
    assert load_device("odroid-c4").title == "Raspberry Pi 4 Model B"


def test_a_name_claimed_twice_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install(monkeypatch, tmp_path, "n100.toml")
    with pytest.raises(PluginError, match="claim the device name 'n100'"):
        device_names()


def test_an_entry_point_without_a_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("boards", "json.decoder", catalogue.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    with pytest.raises(PluginError, match="not a package with device profiles"):
        device_names()


def _stated(costs: Costs) -> dict[str, float]:
    return {name: getattr(costs, name).value for name in ("conv", "conv1x1", "depthwise", "linear", "output", "factor")}


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("stm32h7", "x-cube-ai"), ("stm32l4", "x-cube-ai"), ("stm32l4", "tflite-micro"),
        ("nrf52840", "tflite-micro"), ("esp32-s3", "tflite-micro"),
    ],
)  # fmt: skip
def test_fitted_costs_are_those_of_the_committed_fit(name: str, runtime: str) -> None:
    fit = json.loads(RESULTS.read_text(encoding="utf-8"))["profiles"][name][runtime]
    stated = _stated(next(costs for costs in load_device(name).costs if costs.runtime == runtime))
    assert stated == {key: fit[key] for key in stated}


@pytest.mark.parametrize(("name", "core"), [("raspberry-pi-4", "cortex-a72"), ("raspberry-pi-zero-2", "cortex-a53")])
def test_linux_costs_are_those_of_the_committed_fit(name: str, core: str) -> None:
    fit = json.loads(RESULTS.read_text(encoding="utf-8"))["linux_cores"][core]
    stated = _stated(load_device(name).costs[0])
    assert {key: stated[key] for key in fit} == fit
