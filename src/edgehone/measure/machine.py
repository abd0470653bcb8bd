"""Where figures were taken, with the versions of everything that the core computes with."""

from __future__ import annotations

from typing import Any

from edgehone_agent.measure.machine import LIBRARIES, place
from edgehone_agent.measure.machine import describe_machine as describe

_MORE = ("edgehone", *LIBRARIES, "torch", "onnx", "scipy", "scikit-learn")


def describe_machine() -> dict[str, Any]:
    """What a node says of itself, and the versions of the core's libraries as well."""
    return describe(_MORE)


__all__ = ["describe_machine", "place"]
