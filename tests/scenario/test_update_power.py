"""A node's whole update, from the registry to the pointer, without power at any moment: it answers, old or new."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from edgehone.bundle.delta import make_delta
from edgehone.testing.bundles import write_bundle
from edgehone.testing.power import SURVIVALS, record
from edgehone.testing.trust import Repository
from edgehone_agent.fit import describe_node
from edgehone_agent.node import Node
from edgehone_agent.transport import open_source
from edgehone_agent.updates import Updates
from edgehone_agent.verify import Verifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="Debian package `strace` is not installed"),
]

TASK = "gestures"
UPDATE = """
import sys
from pathlib import Path
from edgehone_agent.fit import describe_node
from edgehone_agent.node import Node
from edgehone_agent.transport import open_source
from edgehone_agent.updates import Updates
from edgehone_agent.verify import Verifier
state, registry, root = map(Path, sys.argv[1:4])
with Node(state, tasks=["gestures"]) as node:
    verifier = Verifier(state, open_source(str(registry)), root.read_bytes())
    told = Updates(node, lambda: verifier, facts=describe_node).look()["gestures"]
    assert told["did"] == "took version 3", told
"""


@pytest.mark.parametrize("by", ["whole", "delta"])
def test_a_power_cut_at_every_moment_leaves_a_node_that_answers(by: str, memory_path: Path) -> None:
    repository = Repository(memory_path / "registry", now_s=time.time(), tasks=(TASK,))
    (memory_path / "root.json").write_bytes(repository.root)
    # The weights of 2 and 3 are the same, so that the delta is small; the answers tell them from each other by digest.
    made = {n: write_bundle(memory_path / f"{n}.bundle", version=n, seed=n // 2) for n in (1, 2, 3)}
    state = memory_path / "state"

    def release(version: int, deltas: tuple[dict[str, str], ...] = ()) -> None:
        content = made[version].path.read_bytes()
        repository.release(TASK, version, content, member="linear", fit={"runtimes": ["litert"]}, deltas=list(deltas))
        repository.commit()

    def look(node: Node) -> str:
        verifier = Verifier(node.state, open_source(str(repository.folder)), repository.root)
        return str(Updates(node, lambda: verifier, facts=describe_node).look()[TASK].get("did"))

    for version in (1, 2):
        release(version)
        with Node(state, tasks=[TASK]) as node:
            assert look(node) == f"took version {version}"
    repository.write_root()
    delta = make_delta(made[2].path, made[3].path)
    assert delta is not None
    path = f"{TASK}/3-from-{made[2].digest[:16]}.delta"
    if by == "delta":
        repository.put_target(TASK, path, delta, {"from": made[2].digest, "to": made[3].digest})
    release(3, ({"from": made[2].digest, "path": path},) if by == "delta" else ())
    command = [sys.executable, "-c", UPDATE, str(state), str(repository.folder), str(memory_path / "root.json")]
    disk, operations = record(command, state)
    assert any(".delta" in path for operation in operations for path in operation.paths) is (by == "delta")

    digests = {one.digest: version for version, one in made.items()}
    cuts, calls, survivals, seen = 0, set[str](), set[str](), set[int]()
    for operation, survival in disk.cuts(operations):
        cuts, calls, survivals = cuts + 1, calls | {operation.call}, survivals | {survival}
        left = memory_path / "left"
        shutil.rmtree(left, ignore_errors=True)
        disk.leave(left, survival)
        with Node(left) as node:
            found = digests[node.digest(TASK)]
            assert found in (2, 3) and node.predict(made[2].x).tobytes() == made[found].y.tobytes()
            seen.add(found)
            if found == 2 and cuts % 5 == 0:
                assert look(node) == "took version 3" and node.predict(made[3].x).tobytes() == made[3].y.tobytes()
    assert seen == {2, 3} and survivals == set(SURVIVALS) and cuts >= 100, (cuts, seen, survivals)
    assert {"openat", "write", "pwrite64", "fsync", "rename", "unlink", "symlink", "mkdir"} <= calls, calls
    disk.leave(memory_path / "after", "nothing")
    with Node(memory_path / "after") as node:
        assert digests[node.digest(TASK)] == 3  # what has taken over is certain
