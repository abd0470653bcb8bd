"""The guide to the report follows the page: its parts, in the page's order."""

from __future__ import annotations

import re
from pathlib import Path

from edgehone.report import page
from edgehone.testing.records import example_record

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "read-the-report.md"


def test_the_parts_of_the_page_are_explained_in_order(tmp_path: Path) -> None:
    written = page.write(example_record(), tmp_path).read_text()
    after_tiles = written[written.index("<h2>The family") :]
    parts = re.findall(r"<h2>([^<]+)</h2>", after_tiles)
    assert re.findall(r"^\d\. \*\*([^.*]+)\.?\*\*", GUIDE.read_text(), re.MULTILINE) == parts
