"""A re-baseline that a person begins: `edgehone loop run TASK --kind re-baseline`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from edgehone.cli.main import main
from edgehone.fleet.cohorts import put_cohort
from edgehone.records.database import open_database
from edgehone.records.tables import decision, evidence, node, sample
from edgehone.service.settings import Place, write_settings
from edgehone.testing.records import example_record
from edgehone.testing.studies import write_record

TASK, DIGEST = "gas", "d" * 64
POLICY = {"source": "gas.py", "members": ["int8"], "card_readings": 60, "cool_down_s": 1e9}


@pytest.fixture
def core(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A node in the north that alarms and has given 60 readings since, and a calm one elsewhere."""
    place = Place(tmp_path)
    write_settings(place)
    write_record(tmp_path / "family", example_record(1, 3))
    (tmp_path / "policy.json").write_text(json.dumps({**POLICY, "study": str(tmp_path / "family")}))
    database = open_database(place.database_url, create=True)
    with database.write() as conn:
        put_cohort(conn, "north", TASK, tags={"site": "north"}, actor="test", now_s=1.0)
        for name, tags, level in (("a", {"site": "north"}, 2), ("b", {}, 0)):
            status = {TASK: {"digest": DIGEST, "version": 1, "member": "int8", "ready": True}}
            about = {"node": name, "task": TASK, "digest": DIGEST, "received_s": 10.0}
            conn.execute(
                insert(node).values(
                    id=name, name=name, tags=tags, state="active", why="", facts={}, enrolled_s=0.0, status=status,
                    beats=0,
                )
            )  # fmt: skip
            conn.execute(insert(evidence).values(**about, watch_level=level, risk_level=0, rows=99, content={}))
            rows = [
                {
                    **about, "id": f"p{row}", "share": "uniform", "propensity": 0.1, "informativeness": 0.0,
                    "stratum": "0", "answer": [1.0], "size_bytes": 10, "time_s": 20.0, "blob": f"{row:064x}",
                }
                for row in range(60)
            ]  # fmt: skip
            conn.execute(insert(sample), rows)
    database.close()
    assert main(["loop", "policy", TASK, "--core", str(tmp_path), "--set", str(tmp_path / "policy.json")]) == 0
    capsys.readouterr()
    return tmp_path


def run(core: Path, *words: str) -> int:
    return main(["loop", "run", TASK, "--core", str(core), "--until", "data", "--json", *words])


def decisions(core: Path) -> list[Any]:
    database = open_database(Place(core).database_url)
    with database.read() as conn:
        found = list(conn.execute(select(decision).where(decision.c.trigger == "manual")).all())
    database.close()
    return found


@pytest.mark.parametrize("words", [(), ("--cohort", "north")])
def test_it_begins_without_labels_and_is_gone_on_with(
    core: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(core, "--kind", "re-baseline", *words) == 0
    begun = json.loads(capsys.readouterr().out)
    assert (begun["kind"], begun["cohorts"], begun["phase"]) == ("re-baseline", ["north"], "train")
    assert begun["dataset"] and begun["trigger"] == "manual" and "new drift references" in begun["began"]
    assert [(one.answer, one.round) for one in decisions(core)] == [("re-baseline", begun["id"])]
    assert run(core, *words) == 0  # the same round
    assert json.loads(capsys.readouterr().out)["id"] == begun["id"]
    assert run(core, "--kind", "retrain") == 4
    assert "a re-baseline round of 'gas' is running" in capsys.readouterr().err
    assert run(core, "--cohort", "south") == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--kind", "re-baseline", "--cohort", TASK), "in gas most nodes do not alarm"),
        (("--kind", "re-baseline", "--cohort", "moon"), "in moon most nodes do not alarm"),
        (("--kind", "retrain", "--cohort", "north"), "for a re-baseline only"),
        (("--cohort", "north"), "for a re-baseline only"),
    ],
)
def test_what_cannot_begin_is_said(
    core: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert run(core, *words) == 4
    assert told in capsys.readouterr().err


def test_too_few_readings_are_collected_first(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = {**POLICY, "study": str(core / "family"), "card_readings": 61}
    (core / "policy.json").write_text(json.dumps(policy))
    assert main(["loop", "policy", TASK, "--core", str(core), "--set", str(core / "policy.json")]) == 0
    assert run(core, "--kind", "re-baseline") == 4
    assert "north: 60" in capsys.readouterr().err
    assert [one.answer for one in decisions(core)] == ["collect"]
