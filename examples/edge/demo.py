"""From a finished study to a node that notices that its world has changed. `make demo` runs it after the study:

    python examples/edge/demo.py demo/study    the study of `edgehone optimize fashion-mnist -o demo/study`

1. two bundles, a registry with keys of its own, and a signed release      edgehone bundle, edgehone registry
2. an agent that takes the release, proves it, and serves it                edgehone-agent run
3. real pictures over HTTP, then the same pictures as a darker lens would give them, until the watch is sure
4. a second release, and the way back                                       edgehone-agent rollback
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from edgehone.data.load import load_task
from edgehone.data.prepare import prepare
from edgehone.report.study_file import read

BIN = Path(sys.executable).parent
DARKNESS, ROWS, SURE = 0.6, 50, 2  # how much light is left; pictures per request; level of the watch: 1 in 100,000


def call(program: str, *arguments: str | Path) -> str:
    """Run a command; its output."""
    command = [str(BIN / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def ask(address: str, task: str, x: np.ndarray) -> np.ndarray:
    """Answers to raw pictures over the Open Inference Protocol; the body is the float32 values alone."""
    request = urllib.request.Request(
        f"http://{address}/v2/models/{task}/infer",
        data=x.astype("<f4").tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        output = json.load(response)["outputs"][0]
    return np.array(output["data"]).reshape(output["shape"])


def status(state: Path) -> dict[str, Any]:
    """What the agent says about itself."""
    found: dict[str, Any] = json.loads(call("edgehone-agent", "status", "--state", state, "--json"))
    return found


def wait(state: Path, task: str, version: int) -> dict[str, Any]:
    """Wait until a version serves; the agent's status."""
    for _ in range(300):
        found = status(state)
        if found["running"] and found["tasks"].get(task, {}).get("version") == version:
            return found
        time.sleep(0.1)
    sys.exit(f"version {version} of {task} does not serve after 30 s: {found}")


def publish(study: Path, member: str, version: int, registry: Path, work: Path) -> None:
    """Build a member's bundle and release it."""
    bundle = work / f"{member}.bundle"
    print(call("edgehone", "bundle", "build", study / "members" / member, "-o", bundle, "--version", version).strip())
    call("edgehone", "registry", "publish", registry, bundle, "--keys", work / "keys", "--approve", "auto")


def stream(address: str, task: str, x: np.ndarray, y: np.ndarray, state: Path, light: float) -> tuple[int, float, int]:
    """Send pictures until they are used up or the watch is sure: pictures sent, share of right answers, its level."""
    right = sent = level = 0
    for start in range(0, len(x), ROWS):
        answers = ask(address, task, light * x[start : start + ROWS])
        right += int((answers.argmax(axis=1) == y[start : start + ROWS]).sum())
        sent += len(answers)
        if sent % 500 == 0 or start + ROWS >= len(x):
            time.sleep(0.3)  # the watch follows a moment behind
            level = status(state)["tasks"][task]["watch"]["level"]
            if level >= SURE:
                break
    return sent, right / sent, level


def main(study: Path) -> None:
    """The whole story."""
    record = read(study)
    task, members = record.task["name"], [member.name for member in record.members]
    test = prepare(load_task(task), int(record.settings["seed"])).test
    x, y = test.arrays()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    work = study.absolute() / "edge"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    registry, state = work / "registry", Path(tempfile.mkdtemp(prefix="edgehone-"))
    os.environ["EDGEHONE_PASSPHRASE"] = secrets.token_urlsafe(12)  # of this demo's keys; nobody needs it afterwards
    call("edgehone", "registry", "init", registry, "--task", task, "--approve", "auto", "--keys", work / "keys")
    publish(study, members[min(1, len(members) - 1)], 1, registry, work)
    command = [BIN / "edgehone-agent", "run", "--registry", registry, "--root", work / "keys" / "root.json"]
    command += ["--task", task, "--state", state, "--listen", "127.0.0.1:0", "--poll", "1"]
    with (work / "agent.log").open("w") as log, subprocess.Popen([str(c) for c in command], stderr=log) as agent:
        try:
            tell(study, state, registry, work, task, members, x, y)
        finally:
            agent.terminate()
    shutil.rmtree(state, ignore_errors=True)


def tell(
    study: Path, state: Path, registry: Path, work: Path, task: str, members: list[str], x: np.ndarray, y: np.ndarray
) -> None:
    """Serve, watch, darken, update, go back."""
    found = wait(state, task, 1)
    address = next(place for place in found["listening"] if not place.startswith("unix:"))
    serving = found["tasks"][task]
    print(f"the agent serves {serving['member']} at http://{address}, {serving['latency_us']:.0f} µs on this machine")
    half = len(x) // 2
    sent, share, level = stream(address, task, x[:half], y[:half], state, 1.0)
    print(f"{sent} real pictures: {100 * share:.2f} % right, watch at level {level}")
    sent, share, level = stream(address, task, x[half:], y[half:], state, DARKNESS)
    noticed = f"alarm (level {level}) within {sent} pictures" if level >= SURE else f"no alarm in {sent} pictures"
    print(f"{100 * DARKNESS:.0f} % of the light: {100 * share:.2f} % right, {noticed}")
    publish(study, members[-1], 2, registry, work)
    member = wait(state, task, 2)["tasks"][task]["member"]
    print(f"version 2 ({member}) was verified, tried and swapped in while the node served")
    call("edgehone-agent", "rollback", task, "--state", state)
    print(f"and back: {wait(state, task, 1)['tasks'][task]['member']} serves again")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
