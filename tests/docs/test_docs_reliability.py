"""docs/reliability.md names tests that exist: a file, and where it says `file::words`, a test with these words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
FILES = {file.name: file for file in TESTS.rglob("test_*.py")}
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "words"), NAMED, ids=lambda value: value or "-")
def test_every_test_that_the_page_names_is_there(file: str, words: str) -> None:
    found = re.findall(r"^def (test_\w+)\(", FILES[file].read_text(), re.MULTILINE)
    assert [name for name in found if words in name], f"{file} has no test with {words!r}"


def test_every_row_of_the_first_table_names_one() -> None:
    table = PAGE.partition("| what we do to it |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) >= 15
    assert [row for row in rows if not re.search(r"`test_\w+\.py", row)] == []


def test_every_variable_that_the_page_names_is_read() -> None:
    files = [*FILES.values(), TESTS.parent / "src" / "edgehone" / "testing" / "faults.py"]
    texts = [file.read_text() for file in files]
    for name in set(re.findall(r"EDGEHONE_[A-Z]+", PAGE)):
        assert any(f'"{name}"' in text for text in texts), name
