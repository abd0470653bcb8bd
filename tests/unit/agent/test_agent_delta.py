"""Deltas written by hand from the format's description: what each operation makes, and what is refused."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from backports import zstd

from edgehone_agent.delta import apply_delta
from edgehone_agent.errors import BundleError, StateError

COPY, INSERT, ADD, ADD32, HINT = range(5)
OLD = bytes(range(256)) * 40  # 10,240 bytes
WINDOW = {zstd.CompressionParameter.window_log: 20}


@dataclass
class Delta:
    """A delta in the making; whatever is not said is right."""

    operations: Sequence[tuple[int, int, int]]  # kind, seek, length
    new: bytes
    inserts: bytes = b""
    hint: bytes = b""
    codes: bytes = b""
    escapes: bytes = b""
    planes: Sequence[bytes] = (b"", b"", b"", b"")
    bits: int = 8
    old: bytes = OLD
    new_bytes: int | None = None
    magic: bytes = b"EHDELTA1"
    count: int | None = None
    frames: dict[int, bytes] = field(default_factory=dict)  # instead of those made here

    def to_bytes(self) -> bytes:
        count = len(self.operations) if self.count is None else self.count
        operations = struct.pack("<I", count) + b"".join(struct.pack("<BqQ", *each) for each in self.operations)
        prefix = zstd.ZstdDict(self.hint, is_raw=True).as_prefix if self.hint else None
        contents = [operations, self.inserts, self.codes, self.escapes, *self.planes]
        frames = [
            zstd.compress(content, options=WINDOW, zstd_dict=prefix if place == 1 else None) if content else b""
            for place, content in enumerate(contents)
        ]
        for place, frame in self.frames.items():
            frames[place] = frame
        size = len(self.new) if self.new_bytes is None else self.new_bytes
        digests = hashlib.sha256(self.old).digest(), hashlib.sha256(self.new).digest()
        head = struct.pack("<8s32s32sQQB8Q", self.magic, *digests, len(OLD), size, self.bits, *map(len, frames))
        return sealed(head + b"".join(frames))


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def applied(tmp_path: Path, delta: Delta | bytes, sha256: str | None = None) -> bytes:
    """What the delta makes; afterwards nothing is there but the files that should be, and the old one is untouched."""
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "delta").write_bytes(delta if isinstance(delta, bytes) else delta.to_bytes())
    if sha256 is None:
        sha256 = hashlib.sha256(b"" if isinstance(delta, bytes) else delta.new).hexdigest()
    expected = {"old", "delta"}
    try:
        apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "new", sha256)
        expected.add("new")
    finally:
        assert {path.name for path in tmp_path.iterdir()} == expected
        assert (tmp_path / "old").read_bytes() == OLD
    return (tmp_path / "new").read_bytes()


def test_it_copies_and_inserts(tmp_path: Path) -> None:
    new = OLD[100:200] + b"between" + OLD[200:300] + OLD[50:60]
    delta = Delta([(COPY, 100, 100), (INSERT, 0, 7), (COPY, 0, 100), (COPY, -250, 10)], new, inserts=b"between")
    assert applied(tmp_path, delta) == new


def test_it_adds_bytes_modulo_256(tmp_path: Path) -> None:
    delta = Delta([(ADD, 254, 4)], bytes([255, 254, 5, 1]), codes=bytes([1, 255, 5, 0]))
    assert applied(tmp_path, delta) == bytes([255, 254, 5, 1])


def test_codes_of_two_bits(tmp_path: Path) -> None:
    # differences 0, -1, 1, then an escape for -7, then 1 in a byte of its own
    codes = bytes([0b11_10_01_00, 0b10])
    new = bytes([10, 10, 13, 6, 15])
    assert applied(tmp_path, Delta([(ADD, 10, 5)], new, codes=codes, escapes=bytes([249]), bits=2)) == new


def test_codes_of_four_bits(tmp_path: Path) -> None:
    # 0, 1, 2, 3 are differences of 0, -1, 1, -2; 13 and 14 are -7 and 7; 15 is an escape, here for 100
    codes = bytes([0x10, 0x32, 0xED, 0x0F])
    new = bytes([20, 20, 23, 21, 17, 32, 126])
    assert applied(tmp_path, Delta([(ADD, 20, 7)], new, codes=codes, escapes=bytes([100]), bits=4)) == new


def test_it_adds_words_modulo_2_to_the_32(tmp_path: Path) -> None:
    old = struct.unpack("<3I", OLD[252:264])
    differences = (1, -1, -70000)
    new = struct.pack("<3I", *((a + b) % 2**32 for a, b in zip(old, differences, strict=True)))
    folded = [2 * d if d >= 0 else -2 * d - 1 for d in differences]
    planes = [bytes(f >> 8 * place & 255 for f in folded) for place in range(4)]
    assert applied(tmp_path, Delta([(ADD32, 252, 12)], new, planes=planes)) == new


def test_it_unpacks_new_bytes_behind_the_hint(tmp_path: Path) -> None:
    text = os.urandom(200)
    old = OLD[:50] + text
    (tmp_path / "old").write_bytes(old)
    new = text + b"!" + text
    delta = Delta([(HINT, 50, 100), (HINT, 100, 100), (INSERT, 0, 401)], new, inserts=new, hint=text, old=old)
    content = bytearray(delta.to_bytes()[:-32])
    struct.pack_into("<Q", content, 72, len(old))
    (tmp_path / "delta").write_bytes(sealed(bytes(content)))
    apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "new", hashlib.sha256(new).hexdigest())
    assert (tmp_path / "new").read_bytes() == new
    assert len(content) < 300  # so the hint was of use


def test_an_empty_file_can_be_made(tmp_path: Path) -> None:
    assert applied(tmp_path, Delta([], b"")) == b""


GOOD = Delta([(COPY, 0, 100), (INSERT, 0, 8), (ADD, 0, 8)], b"", inserts=b"inserted", codes=bytes(8))
GOOD.new = OLD[:100] + b"inserted" + OLD[100:108]


def changed(**fields: object) -> Delta:
    return Delta(**{**vars(GOOD), **fields})  # type: ignore[arg-type]


REFUSED = {
    "another magic": (changed(magic=b"EHDELTA2"), "no delta"),
    "another old file": (changed(old=OLD + b"x"), "another old file"),
    "too long a new file": (changed(new_bytes=1 << 40), "makes more than"),
    "unknown bits": (changed(bits=3), "codes of 3 bits"),
    "unknown operation": (changed(operations=[(5, 0, 116)]), "leaves the old or the new"),
    "copy behind the end": (changed(operations=[(COPY, len(OLD) - 10, 116)]), "leaves the old or the new"),
    "copy before the start": (changed(operations=[(COPY, -1, 116)]), "leaves the old or the new"),
    "copy of more than all there is": (changed(operations=[(COPY, 0, 2**64 - 1)]), "leaves the old or the new"),
    "more than the new file": (changed(operations=[(COPY, 0, 117)]), "leaves the old or the new"),
    "less than the new file": (changed(operations=[(COPY, 0, 115)]), "not make all"),
    "words that are cut": (changed(operations=[(ADD32, 0, 114), (COPY, 0, 2)]), "leaves the old or the new"),
    "a hint behind the end": (changed(operations=[(HINT, len(OLD), 1), *GOOD.operations]), "leaves the old"),
    "too few operations": (changed(count=4), "too short for its operations"),
    "operations left over": (changed(count=2), "more than its operations use"),
    "too few new bytes": (changed(inserts=b"insert"), "too short for its operations"),
    "new bytes left over": (changed(inserts=b"inserted and more"), "more than its operations use"),
    "codes left over": (changed(codes=bytes(9)), "more than its operations use"),
    "no codes": (changed(codes=b""), "too short for its operations"),
    "a plane left over": (changed(planes=[b"", b"", b"", b"x"]), "more than its operations use"),
    "other new bytes": (changed(inserts=b"INSERTED"), "does not make the file"),
    "no zstd": (changed(frames={1: b"no frame of zstd"}), "is damaged"),
    "a frame that is cut": (changed(frames={1: zstd.compress(b"inserted")[:-3]}), "too short for its operations"),
    "two frames in one": (changed(frames={1: zstd.compress(b"inserted") * 2}), "more than its operations use"),
}


@pytest.mark.parametrize(("delta", "text"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, delta: Delta, text: str) -> None:
    assert applied(tmp_path, GOOD) == GOOD.new
    (tmp_path / "new").unlink()
    with pytest.raises(BundleError, match=text) as caught:
        applied(tmp_path, delta, hashlib.sha256(GOOD.new).hexdigest())
    assert str(tmp_path / "delta") in str(caught.value)


@pytest.mark.parametrize("size", [0, 5, 100, 160, -33, -1])
def test_a_delta_that_is_cut_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(BundleError, match=r"no delta|damaged or cut off"):
        applied(tmp_path, GOOD.to_bytes()[:size])


def test_another_promise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="another file than the signed one"):
        applied(tmp_path, GOOD, "0" * 64)


def test_too_many_operations_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="too many operations"):
        applied(tmp_path, changed(count=1 << 17, frames={0: zstd.compress(struct.pack("<I", 1 << 31))}))


def test_a_hint_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="leaves the old"):
        applied(tmp_path, changed(operations=[(HINT, 0, 10_000), *[(HINT, 0, 10_240 - 240)] * 110, *GOOD.operations]))


def test_a_frame_that_wants_a_large_window_is_refused(tmp_path: Path) -> None:
    window = {zstd.CompressionParameter.window_log: 24}
    compressor = zstd.ZstdCompressor(options=window)
    frame = compressor.compress(b"inserted") + compressor.flush()
    with pytest.raises(BundleError, match="is damaged"):
        applied(tmp_path, changed(frames={1: frame}))


def test_what_was_there_stays_when_the_delta_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(b"what was there")
    (tmp_path / "delta").write_bytes(REFUSED["other new bytes"][0].to_bytes())
    with pytest.raises(BundleError):
        apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "new", hashlib.sha256(GOOD.new).hexdigest())
    assert (tmp_path / "new").read_bytes() == b"what was there"
    (tmp_path / "delta").write_bytes(GOOD.to_bytes())
    apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "new", hashlib.sha256(GOOD.new).hexdigest())
    assert (tmp_path / "new").read_bytes() == GOOD.new


@pytest.mark.parametrize("missing", ["old", "delta"])
@pytest.mark.parametrize("instead", ["nothing", "folder", "pipe"])
def test_a_file_that_is_no_file(tmp_path: Path, missing: str, instead: str) -> None:
    for name, content in (("old", OLD), ("delta", GOOD.to_bytes())):
        if name != missing:
            (tmp_path / name).write_bytes(content)
        elif instead == "folder":
            (tmp_path / name).mkdir()
        elif instead == "pipe":
            os.mkfifo(tmp_path / name)
    with pytest.raises(BundleError, match=r"cannot be read|no file") as caught:
        apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "new", hashlib.sha256(GOOD.new).hexdigest())
    assert caught.value.where == str(tmp_path / missing)


@pytest.mark.parametrize("place", ["missing/new", "old/new"])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "delta").write_bytes(GOOD.to_bytes())
    with pytest.raises(StateError):
        apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / place, hashlib.sha256(GOOD.new).hexdigest())
    assert {path.name for path in tmp_path.iterdir()} == {"old", "delta"}


MEMORY = """
import sys
from pathlib import Path
from edgehone_agent.delta import apply_delta
def peak_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
folder = Path(sys.argv[1])
def run(name):
    apply_delta(folder / "old", folder / name, folder / "new", sys.argv[2 + ("small", "large").index(name)])
run("small")
before = peak_kb()
run("large")
print(peak_kb() - before)
"""


def test_a_long_file_is_made_in_little_memory(tmp_path: Path) -> None:
    """24 MB of new bytes that unpack from next to nothing, and 24 MB of differences."""
    size = 24 << 20
    old = bytes(size)
    (tmp_path / "old").write_bytes(old)
    digests = []
    for name, length in (("small", 1 << 10), ("large", size)):
        delta = Delta(
            [(INSERT, 0, length), (ADD, 0, length)],
            bytes(length) + b"\1" * length,
            inserts=bytes(length), codes=b"\xaa" * (length // 4), bits=2, old=old,
        )  # fmt: skip
        content = bytearray(delta.to_bytes()[:-32])
        struct.pack_into("<Q", content, 72, size)
        (tmp_path / name).write_bytes(sealed(bytes(content)))
        digests.append(hashlib.sha256(delta.new).hexdigest())
    command = [sys.executable, "-c", MEMORY, str(tmp_path), *digests]
    grown_kb = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (tmp_path / "new").stat().st_size == 2 * size
    assert grown_kb < 12 << 10
