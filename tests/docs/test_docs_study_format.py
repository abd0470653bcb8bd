"""docs/formats/study.md describes every field of every record, and none that does not exist."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from edgehone import record
from edgehone_agent.wire.measurement import Measurement

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "study.md"
RECORDS = [
    item for item in vars(record).values() if dataclasses.is_dataclass(item) and item.__module__ == record.__name__
] + [Measurement]


def documented(kind: type) -> list[str]:
    section = re.search(rf"^## {kind.__name__}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section, f"{PAGE.name} has no section {kind.__name__}"
    return re.findall(r"^\| `(\w+)` \| \S.{8,} \|$", section.group(1), re.MULTILINE)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_field_is_described_in_order(kind: type) -> None:
    assert documented(kind) == [field.name for field in dataclasses.fields(kind)]


def test_links_lead_to_sections() -> None:
    text = PAGE.read_text()
    sections = {title.lower() for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= sections


def test_the_example_is_json_of_this_schema() -> None:
    block = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    example = json.loads(block.group(1))
    assert example["schema"] == record.SCHEMA
    assert set(example) <= {field.name for field in dataclasses.fields(record.StudyRecord)}
