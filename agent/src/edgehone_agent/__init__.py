"""The node side of edgehone: runtimes, measuring, serving, and the messages that core and node share.

from edgehone_agent import Node

with Node("edgehone-state") as node:
    scores = node.predict(reading)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgehone_agent.node import Node

__version__ = "0.1.0"
__all__ = ["Node", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Node":  # on first use: it needs numpy, and `edgehone-agent --help` must not wait for that
        from edgehone_agent.node import Node

        return Node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
