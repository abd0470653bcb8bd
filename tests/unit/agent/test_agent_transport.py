"""Files from folders and from real web servers, good and bad ones, over links that break."""

from __future__ import annotations

import hashlib
import http.server
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgehone.testing.certificates import Authority
from edgehone.testing.links import CutLink, RangeHandler, serving
from edgehone_agent.errors import ConfigError, RegistryError, StateError, TrustError
from edgehone_agent.transport import FolderSource, Source, open_source

CONTENT = random.Random(0).randbytes(1_000_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "registry"
    (place / "targets" / "gauge").mkdir(parents=True)
    (place / "targets" / "gauge" / "file").write_bytes(CONTENT)
    (place / "small").write_bytes(b"small")
    return place


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "node" / "file"


@pytest.fixture(params=["folder", "file", "http"])
def source(request: pytest.FixtureRequest, folder: Path) -> Iterator[Source]:
    if request.param == "http":
        with serving(folder) as port:
            yield opened(port)
    else:
        yield open_source(str(folder) if request.param == "folder" else folder.as_uri())


class Pauses(list[float]):
    """Counts pauses and makes none."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def opened(port: int, pause: Callable[[float], None] | None = None, timeout_s: float = 5.0) -> Source:
    return open_source(f"http://127.0.0.1:{port}", pause=Pauses() if pause is None else pause, timeout_s=timeout_s)


def part_of(to: Path) -> Path:
    return to.with_name("file.part")


# Every source


def test_small_files(source: Source) -> None:
    assert source.fetch("small", 5) == b"small" == source.find("small", 500)
    assert source.find("nothing", 5) is None and source.find("small/below", 5) is None
    with pytest.raises(RegistryError, match="does not have this file"):
        source.fetch("nothing", 5)
    with pytest.raises(TrustError, match="larger than the 4 bytes"):
        source.find("small", 4)
    assert source.find("small", 5) == b"small"


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "a//b", "./a", "a\\b", "a\nb", "", "a\x00b"])
def test_paths_that_lead_out_are_refused(source: Source, path: str) -> None:
    with pytest.raises(TrustError, match="is no path inside a registry"):
        source.find(path, 5)


def test_a_download(source: Source, to: Path) -> None:
    seen: list[tuple[int, int]] = []
    source.download("targets/gauge/file", to, len(CONTENT), SHA256, lambda have, of: seen.append((have, of)))
    assert to.read_bytes() == CONTENT and not part_of(to).exists()
    assert seen == sorted(seen) and seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_download_goes_on_from_a_part(source: Source, to: Path) -> None:
    to.parent.mkdir()
    part_of(to).write_bytes(CONTENT[:600_000])
    seen: list[int] = []
    source.download("targets/gauge/file", to, len(CONTENT), SHA256, lambda have, of: seen.append(have))
    assert to.read_bytes() == CONTENT and min(seen) > 600_000


@pytest.mark.parametrize("part", [b"x" * 600_000, CONTENT + b"more", b"x" * len(CONTENT), CONTENT])
def test_a_part_that_is_wrong_or_complete(source: Source, to: Path, part: bytes) -> None:
    to.parent.mkdir()
    part_of(to).write_bytes(part)
    source.download("targets/gauge/file", to, len(CONTENT), SHA256)
    assert to.read_bytes() == CONTENT and not part_of(to).exists()


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1, 1])
def test_another_size_than_signed_is_refused(source: Source, to: Path, size: int) -> None:
    with pytest.raises(TrustError):
        source.download("targets/gauge/file", to, size, SHA256)
    assert not to.exists()


def test_another_digest_than_signed_is_refused(source: Source, to: Path) -> None:
    with pytest.raises(TrustError, match="not the one that was signed"):
        source.download("targets/gauge/file", to, len(CONTENT), "0" * 64)
    assert list(to.parent.iterdir()) == []


def test_a_missing_file_is_said_at_once(source: Source, to: Path) -> None:
    with pytest.raises(RegistryError, match="does not have this file"):
        source.download("targets/gauge/other", to, 5, SHA256)


def test_an_old_file_is_replaced_only_by_a_whole_one(source: Source, to: Path) -> None:
    to.parent.mkdir()
    to.write_bytes(b"old")
    with pytest.raises(TrustError):
        source.download("targets/gauge/file", to, len(CONTENT), "0" * 64)
    assert to.read_bytes() == b"old"
    source.download("targets/gauge/file", to, len(CONTENT), SHA256)
    assert to.read_bytes() == CONTENT


def test_who_gives_up_keeps_what_arrived(source: Source, to: Path) -> None:
    def stop(have: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.download("targets/gauge/file", to, len(CONTENT), SHA256, stop)
    kept = part_of(to).read_bytes()
    assert kept and CONTENT.startswith(kept)
    source.download("targets/gauge/file", to, len(CONTENT), SHA256)
    assert to.read_bytes() == CONTENT


def test_a_folder_that_takes_nothing_is_said(source: Source) -> None:
    with pytest.raises(StateError):
        source.download("small", Path("/proc/self/fdinfo/node/file"), 5, "0" * 64)


def test_a_disk_with_too_little_room_is_said_before_anything_is_written(source: Source, to: Path) -> None:
    with pytest.raises(StateError, match="are to come and"):
        source.download("targets/gauge/file", to, 1 << 60, SHA256)
    assert list(to.parent.iterdir()) == []


def test_a_link_where_the_part_should_be_is_not_followed(source: Source, to: Path, tmp_path: Path) -> None:
    to.parent.mkdir()
    (tmp_path / "precious").write_bytes(b"keep")
    part_of(to).symlink_to(tmp_path / "precious")
    with pytest.raises(StateError):
        source.download("small", to, 5, hashlib.sha256(b"small").hexdigest())
    assert (tmp_path / "precious").read_bytes() == b"keep"


# Folders and addresses


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is no such folder"):
        FolderSource(tmp_path / "nothing").find("small", 5)


def test_a_pipe_in_the_folder_does_not_hold_the_node(folder: Path, to: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(TrustError, match="no plain file"):
        FolderSource(folder).find("pipe", 5)
    with pytest.raises(TrustError, match="no plain file"):
        FolderSource(folder).download("pipe", to, 5, SHA256)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://host/x", "http://", "http://user:word@host/", "https://host/?a=b", "http://host:99999/",
     "http://ho st/", "file://host/x", "http://a..b/", "https://host/#x", "http://host\n/"],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="this is no address of a"):
        open_source(url)


def test_certificates_need_https(tmp_path: Path) -> None:
    for url in (str(tmp_path), "http://host/"):
        with pytest.raises(ConfigError, match="https://"):
            open_source(url, ca=tmp_path / "ca.pem")


def test_certificates_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_bytes(b"no")
    for wrong in ("no.pem", "nothing.pem"):
        with pytest.raises(ConfigError, match="no file of certificates"):
            open_source("https://host/", ca=tmp_path / wrong)
        with pytest.raises(ConfigError, match="certificate and key cannot be used"):
            open_source("https://host/", cert=(tmp_path / wrong, tmp_path / wrong))


def test_an_ipv6_address(folder: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with pytest.raises(RegistryError, match="cannot be reached"):
        open_source("http://[::1]:9/", pause=Pauses()).find("small", 5)


# Web servers that behave badly


class Script:
    """A server on a socket that answers the first request with the first text, and so on; then it is gone."""

    def __init__(self, *answers: bytes, hold_s: float = 0.0) -> None:
        self._answers, self._hold_s = answers, hold_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.asked: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self._listener.settimeout(2)  # a test that fails does not hang
        for answer in self._answers:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                break
            with client:
                request = b""
                while b"\r\n\r\n" not in request and (chunk := client.recv(4096)):
                    request += chunk
                self.asked.append(request.decode())
                client.sendall(answer)
                time.sleep(self._hold_s)
        self._listener.close()

    def __enter__(self) -> Script:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def answer(status: str, body: bytes = b"", **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def test_a_redirect_is_refused(to: Path) -> None:
    for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
        reply = answer(status, Location="http://127.0.0.1:1/", Content_Length=0)
        with Script(reply) as server, pytest.raises(RegistryError, match="redirects are not followed"):
            opened(server.port).find("small", 5)


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "407 Proxy", "206 Partial", "204 None"])
def test_an_answer_that_makes_no_sense_is_said(status: str) -> None:
    with Script(answer(status, Content_Length=0)) as server, pytest.raises(RegistryError, match="the server answers"):
        opened(server.port).find("small", 5)


@pytest.mark.parametrize("status", ["403 No", "404 No", "410 Gone"])
def test_what_is_not_there(status: str) -> None:
    with Script(answer(status, b"sorry", Content_Length=5)) as server:
        assert opened(server.port).find("small", 5) is None


def test_a_busy_server_is_asked_again_when_it_says(to: Path) -> None:
    pauses = Pauses()
    busy = answer("503 Busy", Content_Length=0, Retry_After=7)
    with Script(busy, busy, answer("200 OK", b"small", Content_Length=5)) as server:
        assert opened(server.port, pauses).find("small", 5) == b"small"
    assert len(pauses) == 2 and min(pauses) >= 7


def test_a_server_that_is_always_busy_is_given_up(to: Path) -> None:
    pauses = Pauses()
    replies = [answer("500 Broken", Content_Length=0, Retry_After="soon")] * 4
    with Script(*replies) as server, pytest.raises(RegistryError, match="cannot be reached: the server answers 500"):
        opened(server.port, pauses).find("small", 5)
    assert len(pauses) == 3 and pauses[0] < pauses[1] < pauses[2] < 10


def test_nobody_there(to: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RegistryError, match="cannot be reached: Connection refused"):
        opened(port).find("small", 5)
    with pytest.raises(RegistryError, match="cannot be reached"):
        opened(port).download("small", to, 5, SHA256)


def test_a_compressed_answer_is_refused() -> None:
    reply = answer("200 OK", b"small", Content_Length=5, Content_Encoding="gzip")
    with Script(reply) as server, pytest.raises(RegistryError, match="compresses"):
        opened(server.port).find("small", 5)


def test_an_announced_size_over_the_limit_is_refused_unread() -> None:
    with Script(answer("200 OK", b"x", Content_Length=10**12)) as server, pytest.raises(TrustError, match="larger"):
        opened(server.port).find("small", 5)


def test_a_size_over_the_limit_is_refused_while_it_streams(to: Path) -> None:
    endless = answer(
        "200 OK", b"".join(b"1000\r\n" + b"x" * 4096 + b"\r\n" for _ in range(500)), Transfer_Encoding="chunked"
    )
    with Script(endless, endless) as server:
        with pytest.raises(TrustError, match="larger than the 5000 bytes"):
            opened(server.port).find("small", 5000)
        with pytest.raises(TrustError, match="larger than the 5000 bytes"):
            opened(server.port).download("small", to, 5000, SHA256)
    assert list(to.parent.iterdir()) == []


@pytest.mark.parametrize(
    "reply",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", answer("200 OK", b"smal", Content_Length=5),
     answer("200 OK", b"zz\r\n", Transfer_Encoding="chunked"),
     answer("200 OK", b"5\r\nsm", Transfer_Encoding="chunked")],
    ids=["silence", "nonsense", "no status", "long header", "many headers", "cut", "bad chunk", "cut chunk"],
)  # fmt: skip
def test_answers_that_are_none_are_a_registry_that_cannot_be_reached(reply: bytes) -> None:
    with Script(*[reply] * 4) as server, pytest.raises(RegistryError, match="cannot be reached"):
        opened(server.port).find("small", 5)


def test_a_cut_at_any_byte_of_a_head_is_a_cut(to: Path) -> None:
    """Or a piece of a head is taken for a whole one: for a missing file, an empty one, or one of another size."""
    content = CONTENT[:1000]
    to.parent.mkdir()
    for reply, start in (
        (answer("200 OK", content, Content_Length=1000), 0),
        (answer("404 Not Found", b"sorry", Content_Length=5), None),
        (answer("206 Partial", content[500:], Content_Length=500, Content_Range="bytes 500-999/1000"), 500),
    ):
        for place in range(1, reply.index(b"\r\n\r\n") + 4):
            if start is None:
                with Script(reply[:place], reply) as server:
                    assert opened(server.port).find("small", 1000) is None
            else:
                part_of(to).write_bytes(content[:start])
                with Script(reply[:place], reply) as server:
                    opened(server.port).download("small", to, 1000, hashlib.sha256(content).hexdigest())
                assert len(server.asked) == 2 and ("Range:" in server.asked[1]) == bool(start)


@pytest.mark.parametrize("reply", [b"HTTP/1.1 200 OK\r\nContent-Le", answer("200 OK", b"sm", Content_Length=5)])
def test_a_server_that_falls_silent_runs_into_the_timeout(reply: bytes) -> None:
    start = time.monotonic()
    with Script(*[reply] * 4, hold_s=0.3) as server, pytest.raises(RegistryError, match="cannot be reached: timed out"):
        opened(server.port, timeout_s=0.1).find("small", 5)
    assert time.monotonic() - start < 5


@contextmanager
def trickling(head: bytes, drop: bytes) -> Iterator[int]:
    """A server that says something every 20 ms, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def run() -> None:
            listener.settimeout(0.05)
            while not stop.is_set():
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                with client:
                    try:
                        client.recv(4096)
                        client.sendall(head)
                        while not stop.wait(0.02):
                            client.sendall(drop)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("head", "drop"),
    [(answer("200 OK", Content_Length=10**5), b"x"), (b"HTTP/1.1 200 OK\r\nA: ", b"x"),
     (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["body", "header", "continue"],
)  # fmt: skip
def test_a_server_that_trickles_does_not_hold_the_node(head: bytes, drop: bytes) -> None:
    start = time.monotonic()
    with trickling(head, drop) as port, pytest.raises(RegistryError, match="cannot be reached"):
        opened(port, timeout_s=0.1).find("small", 10**5)
    assert time.monotonic() - start < 5


def test_a_connection_is_kept_and_renewed_when_it_went_away(folder: Path) -> None:
    connections: list[object] = []

    class Counts(RangeHandler):
        timeout = 0.2  # an idle connection is closed

        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

        def send_error(self, code: int, *_: object) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"sorry")

    pauses = Pauses()
    with serving(folder, handler=Counts) as port:
        source = opened(port, pauses)
        for _ in range(5):
            assert source.find("small", 5) == b"small" and source.find("nothing", 5) is None
        assert len(connections) == 1
        time.sleep(0.4)
        assert source.find("small", 5) == b"small"
        assert len(connections) == 2 and pauses == []


def test_an_address_with_a_path(folder: Path) -> None:
    (folder / "sub dir").mkdir()
    (folder / "sub dir" / "a+b c").write_bytes(b"odd")
    with serving(folder) as port:
        assert open_source(f"http://127.0.0.1:{port}/sub%20dir/").fetch("a+b c", 5) == b"odd"


# Downloads over links that break


def test_a_server_without_ranges_is_asked_for_all_and_what_is_here_is_kept(folder: Path, to: Path) -> None:
    class NoRanges(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

    with serving(folder, handler=NoRanges) as port, CutLink(port, [300_000, 700_000], reset=False) as link:
        opened(link.port).download("targets/gauge/file", to, len(CONTENT), SHA256)
        assert link.breaks == 2
    assert to.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "headers",
    [{"Content_Range": "bytes 0-999/1000"}, {"Content_Range": "bytes 501-999/1000"},
     {"Content_Range": "bytes 500-999/999"}, {"Content_Range": "bytes 500-1000/1001"}, {"Content_Range": "bites"}, {}],
    ids=str,
)  # fmt: skip
def test_another_part_than_asked_for_is_not_taken(to: Path, headers: dict[str, str]) -> None:
    content = CONTENT[:1000]
    to.parent.mkdir()
    part_of(to).write_bytes(content[:500])
    wrong = answer("206 Partial", content[:500], Content_Length=500, **headers)
    with Script(wrong, answer("200 OK", content, Content_Length=1000)) as server:
        opened(server.port).download("small", to, 1000, hashlib.sha256(content).hexdigest())
    assert to.read_bytes() == content
    assert "Range: bytes=500-" in server.asked[0] and "Range:" not in server.asked[1]


def test_a_part_in_several_answers_is_taken(to: Path) -> None:
    content = CONTENT[:1000]
    to.parent.mkdir()
    part_of(to).write_bytes(content[:500])
    with Script(
        answer("206 Partial", content[500:700], Content_Length=200, Content_Range="bytes 500-699/1000"),
        answer("206 Partial", content[700:], Content_Length=300, Content_Range="bytes 700-999/*"),
    ) as server:
        opened(server.port).download("small", to, 1000, hashlib.sha256(content).hexdigest())
    assert to.read_bytes() == content and "Range: bytes=700-" in server.asked[1]


def test_a_range_that_the_server_has_not_is_refused_in_the_end(to: Path) -> None:
    to.parent.mkdir()
    part_of(to).write_bytes(CONTENT[:500])
    replies = answer("416 No", Content_Length=0), answer("200 OK", b"x" * 400, Content_Length=400)
    with Script(*replies) as server, pytest.raises(TrustError, match="has 400 bytes where 1000 were signed"):
        opened(server.port).download("small", to, 1000, SHA256)


def test_a_login_page_costs_nothing_that_arrived(to: Path) -> None:
    to.parent.mkdir()
    part_of(to).write_bytes(CONTENT[:500])
    with Script(answer("200 OK", b"<html>pay</html>", Content_Length=16)) as server, pytest.raises(TrustError):
        opened(server.port).download("small", to, 1000, SHA256)
    assert part_of(to).read_bytes() == CONTENT[:500]


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "end"])
def test_a_hundred_cuts_cost_less_than_a_twentieth(folder: Path, to: Path, reset: bool) -> None:
    content = random.Random(1).randbytes(4_000_000)
    (folder / "large").write_bytes(content)
    chance = random.Random(2 + reset)
    places = sorted(chance.sample(range(1, len(content)), 100))
    cuts = [end - start for start, end in zip([0, *places], places, strict=False)]
    pauses = Pauses()
    with serving(folder) as port, CutLink(port, cuts, reset=reset) as link:
        opened(link.port, pauses).download("large", to, len(content), hashlib.sha256(content).hexdigest())
        assert link.breaks == 100
        assert link.sent_bytes <= 1.05 * len(content)
    assert to.read_bytes() == content and 90 <= len(pauses) <= 100


def test_a_link_that_gains_nothing_is_given_up_and_goes_on_at_the_next_call(folder: Path, to: Path) -> None:
    with serving(folder) as port, CutLink(port, [500_000, 10, 10, 10, 10]) as link:
        source = opened(link.port)
        with pytest.raises(RegistryError, match="cannot be reached"):
            source.download("targets/gauge/file", to, len(CONTENT), SHA256)
        assert link.breaks == 5 and part_of(to).stat().st_size > 400_000
        source.download("targets/gauge/file", to, len(CONTENT), SHA256)
        assert link.sent_bytes < 1.05 * len(CONTENT)
    assert to.read_bytes() == CONTENT


def test_threads_share_a_source(folder: Path, tmp_path: Path) -> None:
    with serving(folder) as port:
        source = opened(port)
        places = [tmp_path / f"node{n}" / "file" for n in range(4)]
        threads = [
            threading.Thread(target=source.download, args=("targets/gauge/file", place, len(CONTENT), SHA256))
            for place in places
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(place.read_bytes() == CONTENT for place in places)


# TLS


@contextmanager
def serving_tls(folder: Path, authority: Authority, *, clients: Authority | None = None) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.ca)
    with serving(folder, tls=context) as port:
        yield port


def test_https_with_our_own_authority(folder: Path, tmp_path: Path, to: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    with serving_tls(folder, authority) as port, CutLink(port, [400_000, 200_000]) as link:
        source = open_source(f"https://127.0.0.1:{link.port}", ca=authority.ca, pause=Pauses())
        source.download("targets/gauge/file", to, len(CONTENT), SHA256)
        assert link.breaks == 2
    assert to.read_bytes() == CONTENT


def test_a_server_of_another_authority_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    pauses = Pauses()
    with serving_tls(folder, Authority.make(tmp_path / "ca")) as port:
        for ca in (None, Authority.make(tmp_path / "other").ca):
            source = open_source(f"https://127.0.0.1:{port}", ca=ca, pause=pauses)
            with pytest.raises(RegistryError, match="certificate is not accepted"):
                source.find("small", 5)
    assert pauses == []


def test_the_server_asks_who_the_node_is(folder: Path, tmp_path: Path) -> None:
    servers, nodes = Authority.make(tmp_path / "servers"), Authority.make(tmp_path / "nodes")
    with serving_tls(folder, servers, clients=nodes) as port:
        url = f"https://127.0.0.1:{port}"
        named = open_source(url, ca=servers.ca, cert=nodes.issue("node"), pause=Pauses())
        assert named.find("small", 5) == b"small"
        for cert in (None, servers.issue("stranger")):
            with pytest.raises(RegistryError, match="cannot be reached"):
                open_source(url, ca=servers.ca, cert=cert, pause=Pauses()).find("small", 5)
