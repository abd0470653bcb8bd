"""How much one core carries on two cores of this machine, the load generator beside it: heartbeats, streams, a flood.

    python benchmarks/core_load.py --output benchmarks/results/core_load.json

Real certificates of the core's own authority, TLS 1.3, one connection per node, SQLite with synchronous=FULL. The
generator is one process with epoll, and costs about as much as the core does for TLS. Four figures:

- handshakes: new connections in a second, each with a heartbeat;
- heartbeats: in a second over connections that are open, with p50 and p99 of the answer;
- streams: wake-up streams open at once, the core's memory for each, and how long it takes until all of them woke;
- flood: p99 of calm nodes while one node sends 100 times as often as it may, against the same without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import select
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import insert

from edgehone.fleet import serial
from edgehone.fleet.authority import Authority
from edgehone.records.database import open_database
from edgehone.records.tables import certificate, node
from edgehone.service.settings import Place
from edgehone.testing.cores import make_core, make_request
from edgehone_agent.wire.uplink import Failed, Heartbeat, Labelled, TaskStatus, write

STATUS = TaskStatus(
    digest="a" * 64, version=3, member="w22-int8", ready=True, latency_us=103.4, predictions=120_345, swaps=2,
    memory_bytes=1_200_000, failed=(Failed("b" * 64, 2, "the probe answers differently"),), labelled=Labelled(20, 1),
)  # fmt: skip
COMMAND = (sys.executable, "-m", "edgehone.cli.main", "core", "start")
FACTS = {"machine": "aarch64", "runtimes": ["litert", "onnxruntime"], "memory_bytes": 1 << 30}


def make_nodes(place: Place, folder: Path, count: int) -> list[Path]:
    """Nodes of a core, written straight into its tables; one PEM file with certificate and key for each."""
    authority = Authority.load(place.authority)
    key = ec.generate_private_key(ec.SECP256R1())  # one for all: what a handshake costs is the same
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    request = make_request(key)
    now_s = time.time()
    files, nodes, certificates = [], [], []
    for k in range(count):
        id = f"{k:016x}"
        issued = authority.sign_node(request, id, now_s)
        files.append(folder / f"{id}.pem")
        files[-1].write_text(issued.pem + private)
        nodes.append(
            {
                "id": id, "name": f"node {k}", "tags": {"site": f"s{k % 7}"}, "state": "active", "why": "",
                "facts": {}, "enrolled_s": now_s, "status": {}, "beats": 0,
            }
        )  # fmt: skip
        certificates.append(
            {
                "serial": issued.serial, "node": id, "pem": issued.pem, "not_before_s": issued.not_before_s,
                "not_after_s": issued.not_after_s, "why": "",
            }
        )  # fmt: skip
    database = open_database(place.database_url)
    with database.write() as conn:
        conn.execute(insert(node), nodes)
        conn.execute(insert(certificate), certificates)
    database.close()
    return files


@contextmanager
def running(place: Place) -> Iterator[tuple[int, int, float]]:
    """A core as its command starts it: port, process id, seconds until it served."""
    began = time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, str(place.folder), "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    started_s = time.monotonic() - began
    try:
        yield int(json.loads(line)["ready"][0].rpartition(":")[2]), process.pid, started_s
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@dataclass(eq=False)
class Client:
    """One node's connection, not blocking."""

    sock: ssl.SSLSocket
    nonce: str | None = None
    sent_s: float = 0.0
    got: bytearray = field(default_factory=bytearray)

    def send(self) -> None:
        """A heartbeat."""
        body = write(Heartbeat(self.nonce, time.time(), "0.1.0", FACTS, {"digits": 3}, {"digits": STATUS}, 10**9))
        self.sent_s = time.monotonic()
        self.sock.send(b"POST /v1/node/heartbeat HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def receive(self) -> int:
        """Read what is there; the status of a whole answer, 0 before."""
        while True:
            try:
                part = self.sock.recv(16384)
            except ssl.SSLWantReadError:
                break
            if not part:
                raise ConnectionResetError("the core closed a connection")
            self.got += part
        head, found, body = bytes(self.got).partition(b"\r\n\r\n")
        if not found:
            return 0
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return 0
        self.got.clear()
        status = int(head[9:12])
        if status == 200:
            self.nonce = json.loads(body)["nonce"]
        return status


def connect(port: int, authority: Path, pem: Path) -> Client:
    """A connection whose handshake is over."""
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(pem)
    sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30), server_hostname="127.0.0.1")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Client(sock)


def measure_handshakes(port: int, authority: Path, files: Sequence[Path]) -> tuple[list[Client], dict[str, Any]]:
    """Connect nodes one after the other, each with a first heartbeat."""
    clients, times = [], []
    for pem in files:
        began = time.monotonic()
        client = connect(port, authority, pem)
        client.send()
        client.sock.settimeout(30)
        while not (status := blocking(client)):
            pass
        assert status == 200, status
        times.append(time.monotonic() - began)
        client.sock.setblocking(False)
        clients.append(client)
    return clients, {
        "connections": len(files),
        "per_s": len(files) / sum(times),
        "p50_ms": 1e3 * statistics.median(times),
    }


def blocking(client: Client) -> int:
    """Wait for one answer."""
    poll = select.poll()
    poll.register(client.sock, select.POLLIN)
    poll.poll(30_000)
    client.sock.setblocking(False)
    return client.receive()


def measure_beats(clients: Sequence[Client], for_s: float, in_flight: int) -> dict[str, Any]:
    """Heartbeats of all nodes in turn, `in_flight` of them at a time."""
    poll = select.epoll()
    by_fd = {client.sock.fileno(): client for client in clients}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    waiting = list(clients)
    times, place, busy = [], 0, 0
    answers: dict[int, int] = {}
    began = time.monotonic()
    ends = began + for_s
    while True:
        while busy < in_flight and time.monotonic() < ends:
            waiting[place % len(waiting)].send()
            place, busy = place + 1, busy + 1
        if not busy:
            break
        for fd, _ in poll.poll(10):
            status = by_fd[fd].receive()
            if status:
                times.append(time.monotonic() - by_fd[fd].sent_s)
                answers[status] = answers.get(status, 0) + 1
                busy -= 1
    took_s = time.monotonic() - began
    poll.close()
    return {"per_s": answers.get(200, 0) / took_s, "answers": answers, "in_flight": in_flight, **quantiles(times)}


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(times)
    return {"p50_ms": 1e3 * ordered[len(ordered) // 2], "p99_ms": 1e3 * ordered[int(len(ordered) * 0.99)]}


def measure_flood(calm: Sequence[Client], loud: Sequence[Client], for_s: float, flood_per_s: float) -> dict[str, Any]:
    """Calm nodes at their pace, with and without one node that floods. In turns, three times."""
    found: dict[str, list[float]] = {"alone": [], "flooded": []}
    refused = 0
    for _ in range(3):
        for name, rate in (("alone", 0.0), ("flooded", flood_per_s)):
            times, more = pace(calm, loud, for_s / 6, rate)
            found[name] += times
            refused += more
    alone, flooded = quantiles(found["alone"]), quantiles(found["flooded"])
    return {
        "alone": alone, "flooded": flooded, "p99_ratio": flooded["p99_ms"] / alone["p99_ms"],
        "flood_per_s": flood_per_s, "flood_refused": refused,
    }  # fmt: skip


def pace(calm: Sequence[Client], loud: Sequence[Client], for_s: float, flood_per_s: float) -> tuple[list[float], int]:
    """Times of calm nodes that send 50 heartbeats in a second together, and how often the loud one was refused."""
    poll = select.epoll()
    by_fd = {client.sock.fileno(): client for client in (*calm, *loud)}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    mine = set(map(id, calm))
    busy: set[int] = set()
    times: list[float] = []
    began = time.monotonic()
    calm_sent = loud_sent = refused = 0
    while (now := time.monotonic()) < began + for_s or busy:
        if now < began + for_s:
            calm_sent = _send_due(calm, busy, calm_sent, (now - began) * 50)
            loud_sent = _send_due(loud, busy, loud_sent, (now - began) * flood_per_s)
        elif now > began + for_s + 10:
            break
        for fd, _ in poll.poll(0.001):
            client = by_fd[fd]
            status = client.receive()
            if status:
                busy.discard(id(client))
                if id(client) in mine:
                    times.append(time.monotonic() - client.sent_s)
                else:
                    refused += status == 429
    poll.close()
    return times, refused


def _send_due(clients: Sequence[Client], busy: set[int], sent: int, due: float) -> int:
    for client in clients[sent % len(clients) :] if sent < due else ():
        if sent >= due:
            break
        if id(client) not in busy:
            client.send()
            busy.add(id(client))
        sent += 1
    return sent


def measure_streams(place: Place, port: int, pid: int, files: Sequence[Path]) -> dict[str, Any]:
    """Open streams, wake them all, and see when the last one hears it."""
    authority = place.authority / "ca.pem"
    before = memory_bytes(pid)
    poll = select.epoll()
    streams = {}
    for pem in files:
        client = connect(port, authority, pem)
        client.sock.send(b"GET /v1/node/wake HTTP/1.1\r\nhost: x\r\n\r\n")
        client.sock.setblocking(False)
        streams[client.sock.fileno()] = client
        poll.register(client.sock.fileno(), select.EPOLLIN)
    time.sleep(2)
    read_streams(poll, streams, 1.0)
    after = memory_bytes(pid)
    database = open_database(place.database_url)
    with database.write() as conn:
        serial.bump(conn, time.time())
    database.close()
    began = time.monotonic()
    woken = read_streams(poll, streams, 20.0, until=len(streams))
    ordered = sorted(at - began for at in woken.values())
    for client in streams.values():
        client.sock.close()
    poll.close()
    return {
        "open": len(streams), "woken": len(woken), "bytes_each": (after - before) / len(streams),
        "wake_p50_s": ordered[len(ordered) // 2], "wake_p99_s": ordered[int(len(ordered) * 0.99)],
    }  # fmt: skip


def read_streams(poll: select.epoll, streams: dict[int, Client], for_s: float, until: int = 0) -> dict[int, float]:
    """When each stream first said "look"."""
    woken: dict[int, float] = {}
    ends = time.monotonic() + for_s
    while time.monotonic() < ends and not (until and len(woken) >= until):
        for fd, _ in poll.poll(0.1):
            try:
                part = streams[fd].sock.recv(4096)
            except ssl.SSLWantReadError:
                continue
            if not part:
                poll.unregister(fd)
            if b"look" in part:
                woken.setdefault(fd, time.monotonic())
    return woken


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4000)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]), "machine": platform.machine(), "cores": os.cpu_count(),
        "python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = make_core(folder / "core")
        (folder / "pem").mkdir()
        files = make_nodes(place, folder / "pem", max(args.nodes, args.streams))
        with running(place) as (port, pid, started_s):
            result["start_s"] = started_s
            idle_s = cpu_s(pid)
            clients, result["handshakes"] = measure_handshakes(port, place.authority / "ca.pem", files[: args.nodes])
            before_s = cpu_s(pid)
            result["handshakes"]["core_cpu_ms_each"] = 1e3 * (before_s - idle_s) / args.nodes
            print(json.dumps(result["handshakes"]), flush=True)
            result["heartbeats"] = measure_beats(clients, args.seconds, args.in_flight)
            beats = result["heartbeats"]["answers"][200]
            result["heartbeats"]["core_cpu_us_each"] = 1e6 * (cpu_s(pid) - before_s) / beats
            print(json.dumps(result["heartbeats"]), flush=True)
            loud = [connect(port, place.authority / "ca.pem", files[0]) for _ in range(8)]
            for client in loud:
                client.sock.setblocking(False)
            result["flood"] = measure_flood(clients[100:600], loud, args.seconds, 100.0)
            print(json.dumps(result["flood"]), flush=True)
            for client in (*clients, *loud):
                client.sock.close()
        with running(place) as (port, pid, _):
            result["streams"] = measure_streams(place, port, pid, files[: args.streams])
            print(json.dumps(result["streams"]), flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
