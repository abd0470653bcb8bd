"""What can still be read of a database that was put aside: acknowledged feedback, and which samples must not come back.

Rules:
- The file is not opened as a database, since any damaged page may forbid that. Every page of it and of its log is
  looked at by itself: those that hold rows of a table say so, and each row says how long it is (SQLite database file
  format, sections 1.6, 2.1 and 4). A damaged page takes only its own rows along.
- An event counts when its seal opens, so nothing that is damaged, forged or of another node gets in. Of exported events
  only the name is left; they stay exported.
- The file is only read. Captured samples are not saved: they are what may be lost.
- A file beside it (`.saved`) says that it was looked through. It is written after what was found is on disk; a power
  cut between the two means that it is looked through again, and no event is taken twice. It is not written when this
  key opens none of the events: with the right one they will open.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgehone_agent._capture_store import Kept, Store
from edgehone_agent.durable import write_bytes
from edgehone_agent.feedback import KINDS

SAVED = ".saved"
_PRIVATE = 0o600
_MAGIC = b"SQLite format 3\0"
_PAGE_BYTES = 4096
_TABLE_LEAF = 0x0D
_LOG_HEAD, _FRAME_HEAD = 32, 24
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes by serial type

Row = tuple[int, list[Any]]
Page = Callable[[int], bytes]


@dataclass(frozen=True)
class Saved:
    """What came of a database.

    Attributes:
        events: of feedback that were saved.
        sealed: events that do not open: damaged, or sealed with another key.
        missing: events that stood between those that were found and are gone; what stood after them nobody knows.
    """

    events: int
    sealed: int
    missing: int

    def __str__(self) -> str:
        lost = f"; {self.sealed} do not open" if self.sealed else ""
        lost += f"; at least {self.missing} are lost" if self.missing else ""
        return f"{self.events} events of feedback were saved{lost}"


@dataclass
class _Found:
    """Rows of the tables that matter, by id; the row number of an event says when it came."""

    opens: Callable[[str, bytes], bool]
    events: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    gone: dict[str, list[Any]] = field(default_factory=dict)
    answers: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, number: int, row: list[Any]) -> None:
        """Take in a row of any table; what is no row of these is left out."""
        match row:
            case [_, str(id), str(), str(kind), int() | float(), int(), bytes() | None as sealed, _, exported]:
                if kind not in KINDS:
                    return
                if sealed is not None and not self.opens(id, sealed):
                    self.closed.add(id)
                elif id not in self.events or exported:  # of two versions of a page the later has more exported
                    self.events[id] = number, row
            case [_, str(id), int() | float()]:
                self.gone[id] = row
            case [_, str(id), str(), str(), str(), bytes() | None, int() | float()]:
                self.answers[id] = row


def save_rest(aside: Path, store: Store) -> Saved:
    """Take what can be read of a database that was put aside into the one that is used.

    Args:
        aside: the file; its log lies beside it.
        store: of the new database.

    Raises:
        OSError: the file cannot be read.
        StateError: what was done cannot be written down; it is done again.
        sqlite3.Error: the new database cannot be written; nothing was.
    """
    found = _Found(store.opens_event)
    for number, row in rows_of(aside):
        found.add(number, row)
    events = sorted(found.events.values(), key=lambda event: event[0])
    taken = store.take_over(
        Kept(
            events=[[*row[1:7], int(row[6] is None or bool(row[8]))] for _, row in events],
            gone=[row[1:] for row in found.gone.values()],
            answers=[row[1:] for row in found.answers.values()],
        )
    )
    numbers = [number for number, _ in events]
    missing = numbers[-1] - numbers[0] + 1 - len(set(numbers)) if numbers else 0
    sealed = len(found.closed - found.events.keys())
    saved = Saved(taken, sealed, missing)
    if not sealed or any(row[6] is not None for _, row in events):
        write_bytes(aside.with_name(aside.name + SAVED), json.dumps(asdict(saved)).encode(), mode=_PRIVATE)
    return saved


def unsaved(path: Path) -> list[Path]:
    """The files of a database that were put aside and not looked through yet, oldest first."""
    files = [file for file in path.parent.glob(f"{path.name}.aside-*[0-9]") if file.name.rsplit("-", 1)[1].isdigit()]
    waiting = [file for file in files if not file.with_name(file.name + SAVED).exists()]
    return sorted(waiting, key=lambda file: int(file.name.rsplit("-", 1)[1]))


def rows_of(path: Path) -> Iterator[Row]:
    """Every row of every table that can be read in a database file and its log, as (row number, values).

    Raises:
        OSError: a file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(18)
        (size,) = struct.unpack(">H", head[16:18]) if head[:16] == _MAGIC else (_PAGE_BYTES,)
        size = 65536 if size == 1 else size if size >= 512 and size & (size - 1) == 0 else _PAGE_BYTES
        log = dict(_log_pages(path.with_name(path.name + "-wal"), size))

        def page(number: int) -> bytes:
            file.seek((number - 1) * size)
            return log.get(number) or file.read(size)

        pages = path.stat().st_size // size
        for number in range(1, pages + 1):
            file.seek((number - 1) * size)
            yield from _rows_on(file.read(size), 100 if number == 1 else 0, page)
        for content in log.values():
            yield from _rows_on(content, 0, page)


def _log_pages(log: Path, size: int) -> Iterator[tuple[int, bytes]]:
    """The pages in a log, older versions first."""
    if not log.exists():
        return
    with log.open("rb") as file:
        salts = file.read(_LOG_HEAD)[16:24]
        while len(frame := file.read(_FRAME_HEAD + size)) == _FRAME_HEAD + size:
            if frame[8:16] != salts:  # of a time before: the database has them
                return
            yield struct.unpack(">I", frame[:4])[0], frame[_FRAME_HEAD:]


def _rows_on(content: bytes, start: int, page: Page) -> Iterator[Row]:
    """The rows on a page, if it is one that holds rows."""
    if len(content) < start + 8 or content[start] != _TABLE_LEAF:
        return
    (count,) = struct.unpack_from(">H", content, start + 3)
    for index in range(min(count, (len(content) - start - 8) // 2)):
        (place,) = struct.unpack_from(">H", content, start + 8 + 2 * index)
        try:
            length, place = _varint(content, place)
            number, place = _varint(content, place)
            yield number, _values(_payload(content, place, length, page))
        except (IndexError, ValueError, struct.error):  # this row is damaged, the next may be sound
            continue


def _payload(content: bytes, place: int, length: int, page: Page) -> bytes:
    """The bytes of a row: on its page and, of a long one, on the pages that follow it (section 1.6)."""
    usable = len(content)
    if not 0 < length <= 1 << 24:
        raise ValueError("no row is that long")
    if length <= usable - 35:
        return _exactly(content[place : place + length], length)
    least = (usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (usable - 4)
    local = local if local <= usable - 35 else least
    parts, left = [content[place : place + local]], length - local
    (following,) = struct.unpack_from(">I", content, place + local)
    while left > 0:
        if not following:
            raise ValueError("the row is cut off")
        more = page(following)
        (following,) = struct.unpack_from(">I", more)
        parts.append(more[4 : 4 + left])
        if not parts[-1]:
            raise ValueError("the row is cut off")
        left -= len(parts[-1])
    return _exactly(b"".join(parts), length)


def _values(payload: bytes) -> list[Any]:
    """The values of a row (section 2.1)."""
    end, place = _varint(payload, 0)
    kinds = []
    while place < end:
        kind, place = _varint(payload, place)
        kinds.append(kind)
    place, values = end, list[Any]()
    for kind in kinds:
        size = _INTEGERS.get(kind, 8 if kind == 7 else max(0, (kind - 12) // 2))
        piece = _exactly(payload[place : place + size], size)
        place += size
        values.append(_value(kind, piece))
    return values


def _value(kind: int, piece: bytes) -> Any:
    if kind in _INTEGERS:
        return int.from_bytes(piece, signed=True)
    if kind == 7:
        return struct.unpack(">d", piece)[0]
    if kind in (0, 8, 9):
        return None if kind == 0 else kind - 8
    if kind < 12:
        raise ValueError("there is no such kind of value")
    return piece.decode() if kind % 2 else piece


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for index in range(9):
        byte = content[place + index]
        if index == 8:
            return value << 8 | byte, place + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("no number is that long")


def _exactly(piece: bytes, size: int) -> bytes:
    if len(piece) != size:
        raise ValueError("the row is cut off")
    return piece
