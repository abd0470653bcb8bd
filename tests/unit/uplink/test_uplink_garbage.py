"""Whatever answers in the core's place: the node takes nothing half, tells what is wrong, and goes on."""

from __future__ import annotations

import http.server
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgehone.fleet.authority import Authority
from edgehone.testing.cores import make_request
from edgehone.testing.faults import mutations
from edgehone_agent.errors import BusyError, EdgehoneError, InputError, RegistryError, TrustError
from edgehone_agent.fit import describe_node
from edgehone_agent.node import Node
from edgehone_agent.uplink.client import MAX_ANSWER_BYTES, CoreClient, trusting
from edgehone_agent.uplink.enrol import enrol, find_authority
from edgehone_agent.uplink.identity import Identity, load_identity
from edgehone_agent.uplink.link import Uplink
from edgehone_agent.wire.uplink import Desired, HeartbeatAnswer, JoinToken, Wants, write

GOOD = write(
    HeartbeatAnswer(
        nonce="0" * 32, time_s=time.time(), interval_s=1.0,
        desired={"gestures": Desired(2, ("linear",), shadow=3, serial=5)}, wants={"gestures": Wants(True, 64)},
    )
)  # fmt: skip
NO = b'{"error":{"what":"no\\u0007pe","do":"ask"}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Impostor:
    """A TLS server with a certificate of our authority that answers whatever a test says."""

    def __init__(self, folder: Path) -> None:
        authority = Authority.make(folder / "ca", time.time())
        files = authority.serve_as(["127.0.0.1"], time.time())
        self.answer: Callable[[], bytes] = lambda: HEAD % len(GOOD) + GOOD
        self.paths: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.paths.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.wfile.write(outer.answer())
                self.close_connection = True

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        context.load_verify_locations(authority.certificate_file)
        context.verify_mode = ssl.CERT_OPTIONAL

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that hangs up is what is tried here."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.daemon_threads = False  # closing waits for them, so that no socket is left
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.port = int(self.server.server_address[1])
        self.fingerprint = authority.fingerprint
        key = ec.generate_private_key(ec.SECP256R1())
        own = folder / "state" / "uplink"
        own.mkdir(parents=True)
        self.identity = Identity(own, f"https://127.0.0.1:{self.port}", "ab" * 8, "x", authority.fingerprint)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.identity.key_file.write_bytes(private)
        issued = authority.sign_node(make_request(key), "ab" * 8, time.time())
        self.identity.certificate_file.write_text(issued.pem)
        self.identity.ca_file.write_text(authority.pem)
        self.identity.save()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    impostor = Impostor(tmp_path)
    yield impostor
    impostor.close()


def damaged(rng: random.Random) -> bytes:
    """A good answer with some of its bytes changed, cut or doubled."""
    content = bytearray(GOOD if rng.random() < 0.7 else HEAD % len(GOOD) + GOOD)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[place] = rng.randrange(256)
            case 1:
                del content[place : place + rng.randint(1, 40)]
            case 2:
                content[place:place] = content[: rng.randint(1, 60)]
            case _:
                content[place:place] = rng.choice([b"null", b"1e999", b"[" * 5000, b'"\xff"', b"-1", b"{}", b"9" * 400])
    return bytes(content) if content.startswith(b"HTTP") else HEAD % len(content) + bytes(content)


def test_mutations_of_an_answer_end_in_an_error_of_ours_or_in_a_whole_message(
    impostor: Impostor, tmp_path: Path
) -> None:
    rng, refused = random.Random(4), 0
    with Node(tmp_path / "state", tasks=["gestures"]) as node:
        link = Uplink(impostor.identity, node, None, facts=describe_node)
        impostor.answer = lambda: damaged(rng)
        for _ in range(mutations(150)):
            link._try_round()
            refused += link.status()["error"] is not None
            assert link.status().get("code") != "EH000", link.status()["error"]
        impostor.answer = lambda: HEAD % len(GOOD) + GOOD
        link._try_round()
        assert link.status()["error"] is None
        assert not node.ready("gestures") and refused > 50
        link.stop()


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (b"", RegistryError, "cannot be reached"),
        (b"220 smtp.example ESMTP\r\n", RegistryError, "cannot be reached"),
        (HEAD % 1000 + b"{}", RegistryError, "cannot be reached"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://x\r\nContent-Length: 0\r\n\r\n", RegistryError, "302"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", RegistryError, "500"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", InputError, "404"),
        (b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % len(NO) + NO, TrustError, "no pe"),
        (b"HTTP/1.1 429 No\r\nRetry-After: 77\r\nContent-Length: 0\r\n\r\n", BusyError, "too much"),
        (HEAD % (MAX_ANSWER_BYTES + 9) + b" " * (MAX_ANSWER_BYTES + 9), RegistryError, "more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", RegistryError, "compresses"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, RegistryError, "cannot be reached"),
    ],
)  # fmt: skip
def test_answers_that_are_none_have_a_name(
    answer: bytes, kind: type[EdgehoneError], said: str, impostor: Impostor
) -> None:
    impostor.answer = lambda: answer
    client = CoreClient(impostor.identity.core, trusting(impostor.identity), timeout_s=2.0)
    try:
        with pytest.raises(kind, match=said) as found:
            client.post("heartbeat", b"{}")
        assert not isinstance(found.value, BusyError) or found.value.retry_after_s == 77
    finally:
        client.close()


def test_the_token_is_not_told_to_a_core_with_another_authority(impostor: Impostor, tmp_path: Path) -> None:
    assert find_authority("127.0.0.1", impostor.port, impostor.fingerprint)
    token = str(JoinToken("s" * 40, "0" * 64))
    with pytest.raises(TrustError, match="another core"):
        enrol(tmp_path / "new", token, impostor.identity.core)
    assert impostor.paths == [] and load_identity(tmp_path / "new") is None
    impostor.answer = lambda: HEAD % 2 + b"{}"
    with pytest.raises(InputError, match="node"):
        enrol(tmp_path / "new", str(JoinToken("s" * 40, impostor.fingerprint)), impostor.identity.core)
    assert load_identity(tmp_path / "new") is None
