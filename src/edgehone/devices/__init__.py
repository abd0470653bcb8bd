"""Devices: one TOML profile per kind of hardware, and what a model would cost there. No torch in this room."""

from edgehone.devices.catalogue import device_names, load_device
from edgehone.devices.estimate import LayerCost, LayerKind, estimate_energy, estimate_latency, fits, limits
from edgehone.devices.profile import Costs, Device, Hardware, Provenance, Published, Quantity
from edgehone.devices.schema import parse_device, read_device

__all__ = [
    "Costs",
    "Device",
    "Hardware",
    "LayerCost",
    "LayerKind",
    "Provenance",
    "Published",
    "Quantity",
    "device_names",
    "estimate_energy",
    "estimate_latency",
    "fits",
    "limits",
    "load_device",
    "parse_device",
    "read_device",
]
