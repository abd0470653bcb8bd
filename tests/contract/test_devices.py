"""Every device keeps the contract; a profile that breaks a rule is caught by that rule."""

from __future__ import annotations

import dataclasses

import pytest

from edgehone.devices import Device, Quantity, device_names, load_device
from edgehone.testing.devices import complaints, quantities

WANTED = {
    "this-machine", "raspberry-pi-zero-2", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano", "n100",
    "stm32h7", "stm32l4", "esp32-s3", "nrf52840",
}  # fmt: skip


def test_the_promised_devices_are_there() -> None:
    assert set(device_names()) >= WANTED


@pytest.mark.parametrize("name", device_names())
def test_device_keeps_the_contract(name: str) -> None:
    assert complaints(load_device(name)) == []


@pytest.mark.parametrize("name", device_names())
def test_every_number_is_explained_in_public_words(name: str) -> None:
    found = dict(quantities(load_device(name)))
    assert {"hardware.memory_bytes", "hardware.flash_bytes", "hardware.cores"} <= set(found)
    for quantity in found.values():
        assert quantity.provenance in ("measured", "datasheet", "derived", "approximate")
        assert len(quantity.source) > 10
        assert "/work" not in quantity.source and "devices.csv" not in quantity.source


def _hardware(device: Device, **changes: Quantity | None) -> Device:
    return dataclasses.replace(device, hardware=dataclasses.replace(device.hardware, **changes))


def _costs(device: Device, **changes: Quantity) -> Device:
    return dataclasses.replace(device, costs=tuple(dataclasses.replace(costs, **changes) for costs in device.costs))


def _number(value: float, source: str = "a source") -> Quantity:
    return Quantity(value, "measured", source)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda d: _hardware(d, cores=_number(0)), "hardware.cores is 0"),
        (lambda d: _hardware(d, cores=_number(1, source=" ")), "names no source"),
        (lambda d: _hardware(d, cores=_number(1.5)), "no number of cores"),
        (lambda d: _hardware(d, memory_budget_bytes=_number(1e9)), "memory budget is larger"),
        (lambda d: _hardware(d, flash_budget_bytes=_number(1e9)), "flash budget is larger"),
        (lambda d: _hardware(d, active_power_mw=_number(10)), "no bounds"),
        (lambda d: _hardware(d, idle_power_mw=_number(1e6)), "idling takes more"),
        (lambda d: dataclasses.replace(d, runtimes=("magic",)), "none of its runtimes is known"),
        (lambda d: dataclasses.replace(d, costs=()), "neither measured nor estimated"),
        (lambda d: _costs(d, linear=_number(9.0)), "ad is published as"),
        (lambda d: _costs(d, factor=_number(1.0)), "no honest estimate"),
    ],
)
def test_a_broken_profile_is_caught(broken: object, said: str) -> None:
    device = broken(load_device("stm32h7"))  # type: ignore[operator]
    assert any(said in complaint for complaint in complaints(device)), complaints(device)
