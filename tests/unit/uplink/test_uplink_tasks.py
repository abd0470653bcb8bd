"""What a node does about the tasks that its core names, and what it lets them learn; from what it remembers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from edgehone_agent.fit import describe_node
from edgehone_agent.node import Node
from edgehone_agent.uplink.desired import Mind, save_mind
from edgehone_agent.uplink.identity import Identity
from edgehone_agent.uplink.link import Uplink
from edgehone_agent.wire.uplink import Desired, HeartbeatAnswer


def link_of(folder: Path, node: Node, enrolled: tuple[str, ...] = (), state: str = "active", **settings: Any) -> Uplink:
    """The link of a node that remembers a core which named two tasks, and lets one of them learn."""
    identity = Identity(folder / "uplink", "https://127.0.0.1:1", "ab" * 8, "x", "0" * 64, tasks=enrolled)
    answer = HeartbeatAnswer(
        nonce="0" * 32, time_s=time.time(), interval_s=60.0, node_state=state,
        desired={"digits": Desired(1, serial=1), "new": Desired(2, serial=1)},
        policy={"digits": {"learn": "statistics", "label_error": 0.1}, "new": {}},
    )  # fmt: skip
    save_mind(identity.mind_file, Mind(answer))
    return Uplink(identity, node, None, facts=describe_node, **settings)


@pytest.mark.parametrize(
    ("enrolled", "settings", "served"),
    [
        (("digits",), {}, {"digits"}),
        ((), {"tasks": ("digits",)}, {"digits"}),
        ((), {}, {"digits", "new"}),  # it named none, so it is the core's to say
        (("digits",), {"takes_any_task": True}, {"digits", "new"}),
        (("digits", "new"), {}, {"digits", "new"}),
    ],
)
def test_a_new_task_of_the_core_is_served_where_the_settings_allow_it(
    enrolled: tuple[str, ...], settings: dict[str, Any], served: set[str], tmp_path: Path
) -> None:
    with Node(tmp_path / "state", tasks=settings.get("tasks", ())) as node:
        link = link_of(tmp_path, node, enrolled, **settings)
        assert set(node.tasks()) == served
        assert ("task_not_named" in link.status()["flags"]) == ("new" not in served)
        assert not node.ready("digits")  # nothing answers before the registry's signed bundle is here


def test_the_policy_of_the_core_counts_over_the_settings_and_a_sick_node_learns_nothing(tmp_path: Path) -> None:
    def learns(node: Node) -> dict[str, tuple[str | None, float | None]]:
        return {name: (task.learn, task.label_error) for name, task in node._tasks.items()}

    with Node(tmp_path / "a") as node:
        link_of(tmp_path, node, learn="last-layer", label_error=0.2)
        assert learns(node) == {"digits": ("statistics", 0.1), "new": ("last-layer", 0.2)}
    with Node(tmp_path / "b") as node:
        link_of(tmp_path, node, state="quarantined", learn="last-layer")
        assert {kind for kind, _ in learns(node).values()} == {None}
