"""Thousands of changes to signed metadata and to a node's own files: none is believed, none is a crash.

The oracle: whatever the registry serves, a check raises an error of ours, or says that metadata is out of date and
offers nothing, or offers exactly what was signed (a change that changes nothing, like a space between two fields). And
afterwards the true registry is still believed, so no change poisons the node.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from edgehone.testing.faults import Tally, bent, damaged, mutations
from edgehone.testing.trust import Repository, digest
from edgehone_agent.errors import EdgehoneError, RegistryError, TrustError
from edgehone_agent.transport import Progress
from edgehone_agent.verify import BUILT_S, Checked, Verifier

NOW_S = BUILT_S + 400 * 86400.0
EXAMPLES = mutations(600)  # of each kind
FAST = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)  # fmt: skip


class Memory:
    """A registry in a dictionary. A test changes it at will."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def find(self, path: str, max_bytes: int) -> bytes | None:
        content = self.files.get(path)
        if content is not None and len(content) > max_bytes:
            raise TrustError("too large")
        return content

    def fetch(self, path: str, max_bytes: int) -> bytes:
        raise NotImplementedError

    def download(self, path: str, to: Path, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        raise NotImplementedError


class Bench:
    """A registry with a history, a node that knows it, and what a check must say."""

    def __init__(self, folder: Path) -> None:
        repository = Repository(folder / "registry", now_s=NOW_S, tasks=("gauge", "valve"))
        old = digest(b"one")
        path = f"gauge/2-from-{old[:16]}.delta"
        repository.release("gauge", 1, b"one")
        repository.commit()
        repository.release("gauge", 2, b"two", fit={"runtimes": ["litert"]}, deltas=[{"from": old, "path": path}])
        repository.put_target("gauge", path, b"delta", {"from": old, "to": digest(b"two")})
        repository.release("valve", 9, b"nine")
        repository.write_root()
        repository.commit()
        metadata = folder / "registry" / "metadata"
        self.true = {f"metadata/{file.name}": file.read_bytes() for file in metadata.iterdir()}
        self.read = ("2.root", "timestamp", "3.snapshot", "3.targets", "3.task-gauge")  # what a check looks at
        self.source, self.root, self.folder = Memory(dict(self.true)), repository.root, folder
        keys = repository.signers
        self.signers = dict(
            zip(
                self.read,
                (keys["root"][:2], keys["online"], keys["online"], keys["targets"][:2], keys["gauge"]),
                strict=True,
            )
        )
        self.expected = self.node("known").check("gauge")
        assert self.expected.fresh and len(self.expected.releases) == 2
        assert self.expected.releases[0].deltas

    def node(self, name: str) -> Verifier:
        return Verifier(self.folder / name, self.source, self.root, clock=lambda: NOW_S, uptime=lambda: 0.0)

    def wiped(self) -> Verifier:
        """A node that starts with nothing at all: no cache and no floor hides behind another guard."""
        shutil.rmtree(self.folder / "wiped", ignore_errors=True)
        return self.node("wiped")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    memory = Path("/dev/shm")  # syncing costs nothing there, and no power is cut here
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Bench(Path(folder))


def believes_only_the_truth(checked: Callable[[], Checked], expected: Checked) -> bool:
    """Whether the change was refused; fails where it was believed."""
    try:
        found = checked()
    except EdgehoneError:
        return True
    assert found == expected or (not found.fresh and found.releases == ())
    return not found.fresh


@pytest.mark.parametrize("change", [damaged, bent])
def test_no_change_to_what_is_served_is_believed(
    bench: Bench, change: Callable[[bytes, random.Random], bytes], record_property: Callable[[str, object], None]
) -> None:
    names = [f"metadata/{name}.json" for name in bench.read]
    tally = Tally()

    @FAST
    @given(st.sampled_from(names), st.integers(0, 2**63), st.booleans())
    def run(name: str, seed: int, known: bool) -> None:
        node = bench.node("known") if known else bench.wiped()
        bench.source.files = {**bench.true, name: change(bench.true[name], random.Random(seed))}
        try:
            is_refused = believes_only_the_truth(lambda: node.check("gauge"), bench.expected)
            tally.add("refused" if is_refused else "says the same")
        finally:
            bench.source.files = dict(bench.true)
        if known or seed % 8 == 0:
            assert node.check("gauge") == bench.expected

    run()
    record_property("tally", tally.told())
    # Most changes are found, or this test looks at nothing.
    assert tally.outcomes["refused"] > EXAMPLES / 2, tally.told()


@FAST
@given(st.data())
def test_what_the_right_keys_signed_may_be_wrong_and_is_no_crash(bench: Bench, data: st.DataObject) -> None:
    """The form of metadata is broken first and signed then, by the keys that count."""
    name = data.draw(st.sampled_from(bench.read))
    chance = random.Random(data.draw(st.integers(0, 2**63)))
    path = f"metadata/{name}.json"
    signed: Any = json.loads(bent(json.dumps(json.loads(bench.true[path])["signed"]).encode(), chance) or b"{}")
    try:
        content = encode_canonical(signed).encode()
    except (FormatError, RecursionError, UnicodeEncodeError):
        return  # nothing that can be signed
    signatures = [{"keyid": key.public_key.keyid, "sig": key.sign(content).signature} for key in bench.signers[name]]
    bench.source.files[path] = json.dumps({"signed": signed, "signatures": signatures}).encode()
    try:
        bench.wiped().check("gauge")
    except EdgehoneError:
        return
    finally:
        bench.source.files = dict(bench.true)


@settings(FAST, max_examples=max(300, EXAMPLES // 3))
@given(seed=st.integers(0, 2**63), known=st.booleans())
def test_no_file_in_the_place_of_another_is_believed(bench: Bench, seed: int, known: bool) -> None:
    """Every served name may show any file that was ever signed, or none."""
    chance = random.Random(seed)
    node = bench.node("known") if known else bench.wiped()
    old = {name for name, content in bench.true.items() if content}
    for _ in range(chance.randrange(1, 4)):
        name = chance.choice(sorted(bench.true))
        if chance.randrange(4):
            bench.source.files[name] = bench.true[chance.choice(sorted(old))]
        else:
            bench.source.files.pop(name, None)
    try:
        believes_only_the_truth(lambda: node.check("gauge"), bench.expected)
    finally:
        bench.source.files = dict(bench.true)
    assert node.check("gauge") == bench.expected


@settings(FAST, max_examples=max(300, EXAMPLES // 5))
@given(seed=st.integers(0, 2**63))
def test_no_damage_to_the_nodes_own_files_stops_it_or_fools_it(bench: Bench, seed: int) -> None:
    """A node whose cache and one copy of whose floors are damaged heals, and a replay is still refused."""
    chance = random.Random(seed)
    folder = bench.folder / "known"
    bench.node("known").check("gauge")
    files = sorted(file for file in (folder / "tuf").rglob("*.json") if not file.is_symlink())
    for file in chance.sample(files, chance.randrange(1, len(files) + 1)):
        file.write_bytes(chance.choice([damaged, bent])(file.read_bytes(), chance))
    floor = folder / chance.choice(["floor.json", "floor.sqlite"])
    floor.write_bytes(damaged(floor.read_bytes(), chance))
    if chance.randrange(2):
        bench.source.files = {"metadata/timestamp.json": b"[]"}  # first a bad registry, then the true one
        with pytest.raises((TrustError, RegistryError)):
            bench.node("known").check("gauge")
        bench.source.files = dict(bench.true)
    node = bench.node("known")
    assert node._floors.roles["timestamp"].version == 3
    assert node.check("gauge") == bench.expected
