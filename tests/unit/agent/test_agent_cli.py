"""The commands of `edgehone-agent`: each explains itself, stands on the page, and turns mistakes into messages."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone.testing.bundles import LABELS, Made, write_bundle
from edgehone.testing.certificates import Authority
from edgehone.testing.trust import Repository
from edgehone_agent.__main__ import build_parser, command_names, main
from edgehone_agent.bundle import open_bundle
from edgehone_agent.capture import Capture, read_key
from edgehone_agent.lock import take_lock
from edgehone_agent.model import open_model
from edgehone_agent.node import Node

PAGE = (Path(__file__).parents[3] / "docs/commands/agent.md").read_text()
TASK = "gestures"


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """`run` sets up the process's log and thread switching; other tests want theirs."""
    interval = sys.getswitchinterval()
    loggers = [logging.getLogger(name) for name in ("edgehone_agent", "asyncio")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, kept in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = kept
    sys.setswitchinterval(interval)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder of a node that is stopped: version 2 serves, version 1 was the last good one."""
    with Node(tmp_path / "state", tasks=[TASK]) as node:
        for version in (1, 2):
            node.install(TASK, made(tmp_path, version).path)
    return tmp_path / "state"


def made(folder: Path, version: int) -> Made:
    return write_bundle(folder / f"{version}.bundle", version=version)


def json_of(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", command_names())
def test_every_argument_and_example_is_on_the_page_and_no_other(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    section = re.split(r"^## ", PAGE.split(f"\n## edgehone-agent {name}\n")[1], flags=re.MULTILINE)[0]
    explained = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = capsys.readouterr().out.split("\nexamples:")[0]
    options = set(re.findall(r"^  (--[a-z-]+)", told, re.MULTILINE))
    positional = set(re.findall(r"^  ([A-Z]+)\s", told, re.MULTILINE))
    assert explained == options | positional
    for line in importlib.import_module(f"edgehone_agent.cli.{name}").examples:
        assert build_parser().parse_args(shlex.split(line)[1:]).command == name
        assert f"\n{line}\n" in section


def test_help_is_quick_because_it_imports_little() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "edgehone_agent", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in told.splitlines() if "|" in line}
    assert "edgehone_agent" in loaded
    assert not loaded & {"numpy", "tuf", "cryptography", "asyncio", "http", "ai_edge_litert", "onnxruntime", "sqlite3"}


def test_status_and_models_of_a_stopped_node(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state", str(state)]) == 0
    text = capsys.readouterr().out
    assert "not running" in text and re.search(r"gestures +2 +linear +\w{12} +stopped +1", text)
    assert main(["models", "--state", str(state)]) == 0
    assert re.search(r"gestures +current +2 .*\n.*gestures +previous +1 ", capsys.readouterr().out)
    assert main(["models", "--state", str(state), "--json"]) == 0
    models = json_of(capsys)["models"]
    assert [(one["use"], one["version"], one["labels"]) for one in models] == [  # type: ignore[attr-defined]
        ("current", 2, list(LABELS)),
        ("previous", 1, list(LABELS)),
    ]
    (state / "tasks" / TASK / "a" / "bundle.zip").write_bytes(b"")
    assert main(["models", "--state", str(state)]) == 0
    assert "no bundle" in capsys.readouterr().out


def test_predict_asks_the_slot_when_no_agent_runs(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = made(tmp_path, 2)
    np.save(tmp_path / "x.npy", two.x)
    np.save(tmp_path / "batch.npy", np.stack([two.x] * 3).astype(np.float64))
    base = ["predict", "--state", str(state)]
    assert main([*base, str(tmp_path / "x.npy"), "--json"]) == 0
    answer = json_of(capsys)
    np.testing.assert_allclose(answer["values"], two.y, rtol=1e-6)
    assert answer["digest"] == two.digest
    assert main([*base, str(tmp_path / "batch.npy"), "--top", "2", "--task", TASK]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + 3 * 2 and rows[1].split()[1] == LABELS[int(np.argmax(two.y))]
    assert main([*base, str(tmp_path / "x.npy")]) == 0
    assert capsys.readouterr().out.startswith("[[")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"\x93NUMPY nonsense", "cannot be read"),
        (None, "No such file"),
        ("text", "no array of numbers"),
    ],
)
def test_readings_that_are_none_are_refused(
    content: object, said: str, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, np.array([content]))
    assert main(["predict", str(file), "--state", str(state)]) == 4
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status"], 6, "no such folder"),
        (["export", "out"], 6, "no such folder"),
        (["rollback", "other"], 4, "no task 'other'"),
        (["run"], 4, "no task to serve"),
        (["run", "--registry", "reg"], 4, "no root"),
        (["run", "--listen", "nonsense", "--task", "a"], 4, "nonsense"),
        (["run", "--listen", "0.0.0.0:0", "--task", "a"], 4, "reached from outside"),
        (["run", "--poll", "0"], 4, "too little"),
        (["run", "--threads", "10000", "--task", "a"], 4, "threads"),
        (["run", "--config", "none.toml"], 4, "cannot be read"),
    ],
)  # fmt: skip
def test_mistakes_end_in_a_message(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--state", str(tmp_path / "none")]) == code
    told = capsys.readouterr()
    assert said in told.err and "edgehone-agent: EH" in told.err and "Traceback" not in told.err
    if "--json" in told.out:
        json.loads(told.out)


def test_an_error_is_json_too_where_it_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--state", str(tmp_path / "none")]) == 6
    assert json_of(capsys)["error"]["code"] == "EH330"  # type: ignore[index]


def test_rollback_of_a_stopped_node(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", TASK, "--why", "a test", "--state", str(state)]) == 0
    assert "version 1 (linear) answers" in capsys.readouterr().out
    assert main(["status", "--state", str(state)]) == 0
    assert "version 2 is not tried again: rolled back by hand: a test" in capsys.readouterr().out
    assert main(["rollback", TASK, "--state", str(state), "--json"]) == 4
    assert "no last good" in str(json_of(capsys)["error"])


def test_export_of_a_stopped_node(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = made(tmp_path, 2)
    with (
        Capture(state / "capture", key=read_key(state / "key"), max_bytes=10**7, max_age_s=1e6) as capture,
        Node(state, capture=capture) as node,
    ):
        node.infer(TASK, two.x[None])
    assert main(["export", str(tmp_path / "out"), "--state", str(state), "--json"]) == 0
    assert json_of(capsys)["samples"] == 1
    assert list((tmp_path / "out" / "samples").glob("*.npz"))


@pytest.fixture
def watched(tmp_path: Path) -> Made:
    """A bundle with a card of its own answers to standard normal readings."""
    with open_bundle(write_bundle(tmp_path / "bare.bundle", version=3).path) as bundle:
        part = bundle.manifest.part("model")
        (tmp_path / "m.tflite").write_bytes(bundle.read(part))
    x = np.random.default_rng(5).standard_normal((2000, 20), np.float32)
    with open_model(tmp_path / "m.tflite") as model:
        card = build_card(x, model.predict(x), None, kind="classification", model_digest=part.sha256)
    return write_bundle(tmp_path / "w.bundle", version=3, extra=(("card.bin", "card", card.to_bytes()),))


def exported(folder: Path, state: Path) -> dict[str, Any]:
    """The evidence file that an export of a stopped node writes."""
    assert main(["export", str(folder), "--state", str(state)]) == 0
    (file,) = (folder / "evidence").glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())["evidence"]
    return found


def test_export_of_a_stopped_node_tells_what_the_running_one_would(
    state: Path, tmp_path: Path, watched: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(9)
    with (
        Capture(state / "capture", key=read_key(state / "key"), max_bytes=10**7, max_age_s=1e6) as capture,
        Node(state, capture=capture) as node,
    ):
        node.install(TASK, watched.path)
        for _ in range(12):
            answer = node.infer(TASK, rng.standard_normal((100, 20), np.float32) + np.float32(1.5))
            node._live[TASK].feed.drain()  # type: ignore[union-attr]  # as it is looked at, a moment later
        event = {"id": "e1", "prediction_id": f"{answer.id}.7", "task": TASK, "kind": "correct", "label": LABELS[2]}
        node.feedback(event)
        told = json.loads(json.dumps(node.evidence()[TASK]))
    assert told["rows"] == 1200 and told["level"] >= 2 and told["risk"]
    found = exported(tmp_path / "out", state)
    assert found == {TASK: told}
    out = capsys.readouterr().out
    assert re.search(r"^[1-9]\d* samples and 1 events of feedback are in", out)
    assert list((tmp_path / "out" / "feedback").iterdir()) and list((tmp_path / "out" / "samples").glob("*.npz"))
    assert main(["export", str(tmp_path / "again"), "--state", str(state), "--json"]) == 0
    assert json_of(capsys)["samples"] == 0  # what was exported has left the node


@pytest.mark.parametrize("what", ["damaged", "unreadable", "of another card", "without a bundle"])
def test_evidence_that_cannot_be_read_is_said_and_stops_no_export(
    what: str, state: Path, tmp_path: Path, watched: Made
) -> None:
    with Node(state) as node:
        node.install(TASK, watched.path)
        node.infer(TASK, np.zeros((50, 20), np.float32))
    file, slot = state / "watch" / f"{TASK}.bin", state / "tasks" / TASK / "a" / "bundle.zip"
    if what == "damaged":
        file.write_bytes(b"nonsense")
    elif what == "unreadable":
        file.unlink()
        file.mkdir()
    elif what == "without a bundle":
        slot.unlink()
    else:
        main(["rollback", TASK, "--state", str(state)])
    found = exported(tmp_path / "out", state)
    assert ("error" in found[TASK]) if what != "of another card" else (found == {})


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path / "registry", now_s=time.time(), tasks=(TASK,))
    root = tmp_path / "root.json"
    root.write_bytes(repository.root)
    bundle = made(tmp_path, 1).path.read_bytes()
    repository.release(TASK, 1, bundle, member="linear", fit={"runtimes": ["litert"]})
    repository.commit()
    good = ["doctor", "--state", str(tmp_path / "state"), "--root", str(root), "--task", TASK]
    assert main([*good, "--registry", str(tmp_path / "registry")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines) and len(lines) >= 7
    assert main([*good, "--registry", str(tmp_path / "nowhere"), "--json"]) == 1
    checks = {check["name"]: check for check in json_of(capsys)["checks"]}  # type: ignore[attr-defined]
    assert checks["registry"]["verdict"] == "fail" and checks["registry"]["do"]
    root.write_bytes(b"{}")
    assert main([*good, "--registry", str(tmp_path / "registry")]) == 1
    assert re.search(r"^fail +root ", capsys.readouterr().out, re.MULTILINE)
    assert main(["doctor", "--state", str(root)]) == 1
    assert re.search(r"^fail +state .*\n +→ fix its permission", capsys.readouterr().out, re.MULTILINE)


def findings(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, dict[str, str]]:
    """The doctor's lines by name."""
    capsys.readouterr()
    code = main(["doctor", "--json", *map(str, arguments)])
    found = {check["name"]: check for check in json_of(capsys)["checks"]}  # type: ignore[attr-defined]
    assert code == any(check["verdict"] == "fail" for check in found.values())
    return found


def test_doctor_knows_what_an_agent_would_be_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path / "registry", now_s=time.time(), tasks=(TASK, "other"))
    stranger = Repository(tmp_path / "stranger", now_s=time.time(), tasks=(TASK,))
    root = tmp_path / "root.json"
    root.write_bytes(repository.root)
    base = ["--state", tmp_path / "s", "--root", root, "--registry", repository.folder]
    assert findings(capsys, *base, "--task", TASK)[f"task {TASK}"]["text"] == "nothing is released yet"
    repository.release(TASK, 1, b"x", fit={"machines": ["riscv64"]})
    repository.commit()
    assert "riscv64" in findings(capsys, *base, "--task", TASK)[f"task {TASK}"]["text"]
    assert "no task 'none'" in findings(capsys, *base, "--task", "none")["task none"]["text"]
    repository.now_s -= 30 * 86_400
    repository.commit()
    assert "expired" in findings(capsys, *base, "--task", TASK)[f"task {TASK}"]["text"]
    other = ["--state", tmp_path / "s", "--root", root, "--registry", stranger.folder, "--task", TASK]
    told = findings(capsys, *other)[f"task {TASK}"]
    assert told["verdict"] == "fail" and "refused" in told["text"]
    assert not (tmp_path / "s").exists()


def test_doctor_looks_at_the_folder(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to(state)
    assert findings(capsys, "--state", link)["state"]["verdict"] in ("ok", "warn")
    link.unlink()
    link.symlink_to(tmp_path / "not mounted")
    told = findings(capsys, "--state", link)["state"]
    assert told["verdict"] == "fail" and "which is not there" in told["text"]
    config = tmp_path / "agent.toml"
    config.write_text(f'state = "{state}"\ntasks = ["new"]\n')
    assert "not among the tasks" in findings(capsys, "--config", config)[f"slots {TASK}"]["text"]
    (state / "tasks" / TASK / "current.json").write_bytes(b"{")
    assert "damaged" in findings(capsys, "--state", state)[f"slots {TASK}"]["text"]
    lock = take_lock(state)
    assert lock is not None
    try:
        assert f"process {os.getpid()} holds" in findings(capsys, "--state", state)["socket"]["text"]
    finally:
        lock.release()


def test_doctor_tries_certificates_and_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority.make(tmp_path / "ca")
    cert, key = authority.issue("n7")
    key.chmod(0o644)
    config = tmp_path / "agent.toml"

    def told(ca: Path) -> dict[str, dict[str, str]]:
        config.write_text(
            f'[serve]\ncert = "{cert}"\nkey = "{key}"\nclient_ca = "{ca}"\n'
            f'[mqtt]\nbroker = "127.0.0.1:1"\ncert = "{cert}"\nkey = "{key}"\nca = "{ca}"\n'
        )
        return findings(capsys, "--config", config, "--state", tmp_path / "s")

    good = told(authority.ca)
    assert good["serve tls"]["verdict"] == good["mqtt tls"]["verdict"] == "ok"
    assert good["key"]["verdict"] == "warn" and good["key"]["do"] == f"chmod 600 {key}"
    key.chmod(0o600)
    bad = told(tmp_path / "nowhere.pem")
    assert "nowhere.pem" in bad["serve tls"]["text"] and "nowhere.pem" in bad["mqtt tls"]["text"]
    assert bad["mqtt tls"]["verdict"] == "fail" and "key" not in bad
