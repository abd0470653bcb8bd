"""A node's measuring service as its own process, with TLS and a token, and `edgehone measure --node` against it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehone.cli.main import main
from edgehone.testing.certificates import Authority
from edgehone.testing.hosts import write_linear
from edgehone.testing.measuring import install_odd_runtime

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """Port of the service; that it ends well when told to, and leaves nothing behind, is checked at the end."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    certificate, key = Authority.make(tmp_path / "ca").issue("node")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "edgehone_agent", "measure", "--listen", "127.0.0.1:0", "--log", "json"]
    command += ["--token-file", str(tmp_path / "token"), "--tls-cert", str(certificate), "--tls-key", str(key)]
    runtimes = install_odd_runtime(tmp_path)
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(disk), "PYTHONPATH": str(runtimes)},
    )  # fmt: skip
    try:
        lines: list[str] = []
        found = None
        for line in process.stderr or ():
            lines.append(line)
            found = re.search(r"measuring on 127\.0\.0\.1:(\d+)", line)
            if found:
                break
        assert found, lines
        yield found[1]
        process.send_signal(signal.SIGTERM)
        rest = (process.stderr.read() if process.stderr else "") + "".join(lines)
        assert process.wait(30) == 0
        assert TOKEN not in rest and "Traceback" not in rest
        assert list(disk.glob("edgehone*")) == []  # a library keeps a file of its own there
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def test_a_file_is_measured_there(node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, dies = write_linear(tmp_path / "a.tflite"), tmp_path / "d.tflite"
    dies.write_text("dies")
    url = f"https://localhost:{node}"
    there = ["--node", url, "--token-file", str(tmp_path / "token"), "--rounds", "5"]
    trust = ["--ca", str(tmp_path / "ca" / "ca.pem")]

    assert main(["measure", str(dies), "--runtime", "odd", *there, *trust]) == 4
    assert f"{dies}: the runtime dies on this file (SIGSEGV)" in capsys.readouterr().err

    assert main(["measure", str(file), *there, *trust]) == 0
    said = capsys.readouterr().out
    assert f"Measured by {url}, not on this machine: " in said and "peak memory of a process" in said

    (tmp_path / "other").write_text("f" * 32)
    for wrong, word in (
        ([*there, "--ca", str(Authority.make(tmp_path / "stranger").ca)], "certificate is not accepted"),
        ([*there[:2], "--token-file", str(tmp_path / "other"), *trust], "does not accept this token"),
        ([*there, *trust, "--task", "digits"], "--task judges on this machine"),
        (trust, "--ca is of use with --node only"),
    ):
        assert main(["measure", str(file), *wrong]) == 4
        assert word in capsys.readouterr().err
