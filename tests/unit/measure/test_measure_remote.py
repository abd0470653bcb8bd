"""Measuring on a node from the core's side: the same figures as here, and words for all that can go wrong."""

from __future__ import annotations

import contextlib
import http.server
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehone.errors import HostError, InputError, MissingExtraError, ModelFileError
from edgehone.measure.remote import MeasuringNode, measure_remote
from edgehone.measure.timer import LocalTimer, RemoteTimer, Timer
from edgehone.testing.certificates import Authority
from edgehone.testing.hosts import write_linear
from edgehone.testing.measuring import install_odd_runtime, measuring
from edgehone_agent.errors import BusyError, ConfigError
from edgehone_agent.measure.latency import ratio
from edgehone_agent.wire.measuring import PATH, Candidate, MeasureRequest, read_told

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of a service know the runtime `odd`; its files go with the test."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(install_odd_runtime(folder)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def secure(authority: Authority) -> Iterator[str]:
    """URL of a service with TLS and a token."""
    with measuring(token=TOKEN, certificate=authority.issue("node")) as address:
        yield f"https://{address}"


def odd(*names: str) -> MeasureRequest:
    return MeasureRequest(tuple(Candidate(name, "odd", name.encode()) for name in names), 5)


def test_both_timers_give_the_same_shape(tmp_path: Path) -> None:
    files = {
        "a": write_linear(tmp_path / "a.tflite").read_bytes(),
        "b/..": write_linear(tmp_path / "b.tflite", (20, 1024, 1024, 4)).read_bytes(),
    }
    version = LocalTimer().fingerprint().partition(";")[0].removeprefix("litert ")
    with measuring(runtimes={"litert": version}) as address, MeasuringNode(f"http://{address}") as node:
        timers: list[Timer] = [LocalTimer(), RemoteTimer(node)]
        for timer in timers:
            found = timer.time(files, rounds=5)
            assert list(found) == list(files)
            assert found["a"].rounds == len(found["a"].round_us) == 5
            assert ratio(found["b/.."], found["a"]).value > 1
        assert timers[0].fingerprint() == timers[1].fingerprint()
        with pytest.raises(MissingExtraError, match="no runtime 'onnxruntime'"):
            RemoteTimer(node, runtime="onnxruntime").fingerprint()


def test_tls_says_who_the_node_is_before_anything_is_sent(secure: str, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority.make(tmp_path / "other")
    with MeasuringNode(secure, token=TOKEN, cafile=authority.ca) as node:
        assert set(node.measure(odd("fine")).files) == {"fine"}
    for wrong in ({"cafile": stranger.ca}, {"cafile": None}):
        with MeasuringNode(secure, token=TOKEN, **wrong) as node, pytest.raises(ConfigError, match="not accepted"):
            node.about()


def test_a_fingerprint_takes_the_place_of_an_authority(secure: str, authority: Authority) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    shown = x509.load_pem_x509_certificate((authority.ca.parent / "node.pem").read_bytes())
    digest = shown.fingerprint(hashes.SHA256()).hex(":").upper()
    with MeasuringNode(secure, token=TOKEN, fingerprint=digest) as node:
        assert node.about()["runtimes"]["odd"] == "1.0"
    with (
        MeasuringNode(secure, token=TOKEN, fingerprint=digest.replace(digest[:2], "00")) as node,
        pytest.raises(ConfigError, match="another certificate"),
    ):
        node.about()


@pytest.mark.parametrize("token", [None, "another token entirely"])
def test_a_wrong_token_is_said(token: str | None, secure: str, authority: Authority) -> None:
    with MeasuringNode(secure, token=token, cafile=authority.ca) as node, pytest.raises(ConfigError, match="token"):
        node.measure(odd("fine"))


def test_a_bad_file_is_the_same_error_as_here() -> None:
    with measuring() as address:
        for name, kind in (("dies", ModelFileError), ("raises", HostError)):
            with pytest.raises(kind) as caught:
                measure_remote(f"http://{address}", {name: name.encode()}, runtime="odd", rounds=5)
            assert caught.value.where == name
        with pytest.raises(InputError, match="no file of the runtime litert"):
            measure_remote(f"http://{address}", {"a": b"text"}, runtime={"a": "litert"}, rounds=5)
        with pytest.raises(InputError, match="rounds is 1"):
            measure_remote(f"http://{address}", {"a": b"fine"}, runtime="odd", rounds=1)


def test_files_that_are_too_long_are_not_sent() -> None:
    with measuring(max_bytes=1000) as address, pytest.raises(InputError, match="the node takes 1000"):
        measure_remote(f"http://{address}", {"a": bytes(1001)}, runtime="odd")


def test_a_node_without_room_is_asked_again() -> None:
    said: list[str] = []
    with measuring(queue=1, limit_s=30) as address, contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(MeasuringNode(f"http://{address}")) for _ in range(3)]
        stuck = nodes[0]._send(odd("hangs"), said.append)
        while read_told(nodes[0]._ask("GET", f"{PATH}/{stuck.id}")).state == "waiting":
            pass
        second = threading.Thread(target=nodes[1].measure, args=(odd("fine"),))
        second.start()
        while nodes[0].about()["jobs"] != 2:
            time.sleep(0.01)

        def make_room(_: float) -> None:
            nodes[0]._ask("DELETE", f"{PATH}/{stuck.id}")
            while nodes[0].about()["jobs"] == 2:
                time.sleep(0.01)

        nodes[2]._pause = make_room
        assert set(nodes[2].measure(odd("fine"), said.append).files) == {"fine"}
        second.join()
    assert "the node has no room yet" in said


def test_patience_has_an_end() -> None:
    with measuring(queue=1) as address, contextlib.ExitStack() as stack:
        node = stack.enter_context(MeasuringNode(f"http://{address}", patience_s=3, pause=lambda _: None))
        node._send(odd("hangs"), str)
        while True:  # the first one is taken up at some moment, then a second one waits
            with contextlib.suppress(BusyError):
                node._send(odd("hangs"), str)
            if node.about()["jobs"] == 2:
                break
        with pytest.raises(BusyError, match="wait to be measured"):
            node.measure(odd("fine"))


def test_ctrl_c_ends_the_job_on_the_node_too() -> None:
    def stop(text: str) -> None:
        if text == "measuring":
            raise KeyboardInterrupt

    with measuring() as address, MeasuringNode(f"http://{address}") as node:
        with pytest.raises(KeyboardInterrupt):
            node.measure(odd("hangs"), stop)
        while node.about()["jobs"]:
            time.sleep(0.01)


class _Nonsense(http.server.BaseHTTPRequestHandler):
    answer = b""
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, b"<html>", "no answer of a measuring service"),
        (200, b"[]", "no answer of a measuring service"),
        (200, b'{"machine": {"cpu": "x", "machine": "y", "cores": 0}}', "no answer of a measuring service"),
        (404, b"", "nothing of the kind"),
        (500, b'{"error": "a defect"}', "a defect"),
        (302, b"", "answers 302"),
    ],
)
def test_something_else_at_that_address_is_said(status: int, answer: bytes, said: str) -> None:
    kind = type("Answers", (_Nonsense,), {"answer": answer, "status": status})
    with http.server.HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with MeasuringNode(f"http://127.0.0.1:{server.server_port}") as node, pytest.raises(HostError, match=said):
                node.about()
        finally:
            server.shutdown()
            thread.join()


def test_nobody_at_that_address_is_said() -> None:
    waits: list[float] = []
    with MeasuringNode("http://127.0.0.1:9", pause=waits.append) as node, pytest.raises(HostError, match="reached"):
        node.about()
    assert len(waits) == 3


@pytest.mark.parametrize(
    ("url", "more", "said"),
    [
        ("http://pi.local:7444", {}, "plain HTTP is for this machine"),
        ("pi.local:7444", {}, "no address"),
        ("https://pi.local/path", {}, "no address"),
        ("https://user:secret@pi.local", {}, "no address"),
        ("https://pi.local:99999", {}, "no address"),
        ("http://localhost", {"fingerprint": "0" * 64}, "needs https"),
        ("https://pi.local", {"fingerprint": "12:34"}, "no sha256"),
        ("https://pi.local", {"cafile": Path("missing.pem")}, "no file of certificates"),
    ],
)
def test_settings_that_cannot_work_are_refused(url: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MeasuringNode(url, **more)
