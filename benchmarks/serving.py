"""What an answer costs through each door: in process, Unix socket, HTTP, tritonclient, and the same behind uvicorn.

One client and one server process on this machine, a linear model of 20 values in and 4 scores out. All doors are asked
in turn, block by block, so that a busy moment hits them alike; each block's first requests do not count.

python benchmarks/serving.py        writes benchmarks/results/serving.json
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgehone.measure.machine import describe_machine
from edgehone.testing.hosts import FileHost, ServedFile, write_linear
from edgehone_agent.serve.app import serve
from edgehone_agent.serve.limits import Limits
from edgehone_agent.serve.routes import Request, Response, Routes
from edgehone_agent.serve.traffic import Traffic

RESULTS = Path(__file__).parent / "results"
BLOCKS, REQUESTS, WARM = 25, 200, 20
BUDGET_US = {"unix": 150, "http": 250}
READING = np.linspace(-1, 1, 20, dtype=np.float32)[None]


def make_host(file: Path) -> FileHost:
    """The host that every door leads to."""
    return FileHost({"tiny": ServedFile(file, labels=("a", "b", "c", "d"))})


def run_ours(file: Path, unix: str, ready: Any) -> None:
    """Our server, until the process is ended."""

    async def main() -> None:
        await serve(make_host(file), ["127.0.0.1:0", f"unix:{unix}"], stop=asyncio.Event(), ready=ready.put)

    asyncio.run(main())


def run_uvicorn(file: Path, unix: str, ready: Any) -> None:
    """The same routes behind uvicorn with httptools, without access log and lifespan."""
    import uvicorn

    async def main() -> None:
        routes = Routes(make_host(file), Limits(), Traffic())

        async def app(scope: Any, receive: Any, send: Any) -> None:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            answered = routes.answer(Request(scope["method"], scope["path"], dict(scope["headers"]), body))
            response: Response = answered if isinstance(answered, Response) else await answered
            headers = [
                (b"content-type", response.content_type.encode()),
                (b"content-length", str(len(response.body)).encode()),
                *((name.encode(), value.encode()) for name, value in response.headers),
            ]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.body})

        settings: dict[str, Any] = {
            "http": "httptools", "loop": "asyncio", "lifespan": "off", "access_log": False, "log_level": "warning",
            "timeout_keep_alive": 600,
        }  # fmt: skip
        # asyncio switches Nagle's algorithm off only where the protocol is named
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        tcp.bind(("127.0.0.1", 0))
        by_unix = socket.socket(socket.AF_UNIX)
        by_unix.bind(unix)
        ready.put([f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{unix}"])
        await uvicorn.Server(uvicorn.Config(app, **settings)).serve(sockets=[tcp, by_unix])

    asyncio.run(main())


def http_request(body: bytes, json_length: int | None, task: str = "tiny") -> bytes:
    """An infer request for a keep-alive connection."""
    extra = "" if json_length is None else f"Inference-Header-Content-Length: {json_length}\r\n"
    head = f"POST /v2/models/{task}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def in_json() -> bytes:
    """A request whose values are JSON."""
    tensor = {"name": "reading", "shape": [1, 20], "datatype": "FP32", "data": READING.ravel().tolist()}
    return http_request(json.dumps({"inputs": [tensor]}).encode(), None)


def in_binary() -> bytes:
    """A request whose values are bytes, and that asks for bytes."""
    tensor = {"name": "reading", "shape": [1, 20], "datatype": "FP32", "parameters": {"binary_data_size": 80}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return http_request(head + READING.tobytes(), len(head))


def by_socket(address: str, request: bytes) -> Callable[[], None]:
    """One request over a connection that stays open, written by hand."""
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        client = socket.create_connection((host, int(port)))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> None:
        client.sendall(request)
        found = client.recv(65536)
        while b"\r\n\r\n" not in found or not _is_whole(found):
            found += client.recv(65536)
        assert found.startswith(b"HTTP/1.1 200"), found

    return ask


def _is_whole(found: bytes) -> bool:
    head, _, body = found.partition(b"\r\n\r\n")
    return len(body) >= int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])


def by_triton(address: str, *, binary: bool) -> Callable[[], None]:
    """One request of tritonclient.http."""
    from tritonclient import http as triton

    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("reading", [1, 20], "FP32")
    tensor.set_data_from_numpy(READING, binary_data=binary)
    outputs = [triton.InferRequestedOutput("scores", binary_data=binary)]

    def ask() -> None:
        client.infer("tiny", [tensor], outputs=outputs).as_numpy("scores")

    return ask


def doors(file: Path, folder: str, stop: list[Any]) -> dict[str, Callable[[], None]]:
    """Every way to ask, by name. The processes to end are added to `stop`."""
    host = make_host(file)
    model = host._tasks["tiny"].model
    found: dict[str, Callable[[], None]] = {
        "bare model.predict": lambda: model.predict(READING),
        "host.infer in process": lambda: host.infer("tiny", READING),
    }
    context = multiprocessing.get_context("spawn")
    servers = [("", run_ours)]
    if importlib.util.find_spec("uvicorn"):
        servers.append(("uvicorn ", run_uvicorn))
    for name, run in servers:
        ready = context.Queue()
        process = context.Process(
            target=run, args=(file, f"{folder}/{name.strip() or 'ours'}.sock", ready), daemon=True
        )
        process.start()
        stop.append(process)
        http, unix = ready.get(timeout=60)
        time.sleep(0.5)
        for kind, request in (("binary", in_binary()), ("json", in_json())):
            found[f"{name}unix {kind}"] = by_socket(unix, request)
            found[f"{name}http {kind}"] = by_socket(http, request)
            if not name:
                found[f"tritonclient http {kind}"] = by_triton(http, binary=kind == "binary")
    return found


def time_one(ask: Callable[[], None]) -> list[float]:
    """Microseconds of each request of one block."""
    times = []
    for number in range(REQUESTS + WARM):
        started = time.perf_counter()
        ask()
        if number >= WARM:
            times.append((time.perf_counter() - started) * 1e6)
    return times


def main() -> None:
    """Run and write the result."""
    processes: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        file = write_linear(Path(folder) / "model.tflite")
        try:
            asks = doors(file, folder, processes)
            blocks: dict[str, list[list[float]]] = {name: [] for name in asks}
            for _ in range(BLOCKS):
                for name, ask in asks.items():
                    blocks[name].append(time_one(ask))
        finally:
            for process in processes:
                process.terminate()
    rows = {}
    for name, timed in blocks.items():
        every = [us for block in timed for us in block]
        rows[name] = {
            "p50_us": round(statistics.median(every), 1),
            "p50_us_quietest_block": round(min(map(statistics.median, timed)), 1),
            "p50_us_busiest_block": round(max(map(statistics.median, timed)), 1),
            "p99_us": round(float(np.percentile(every, 99)), 1),
        }
    result = {
        "what": "one request, linear model 20 → 4 in LiteRT, float32, batch 1, client and server on one machine",
        "command": "python benchmarks/serving.py",
        "requests": BLOCKS * REQUESTS,
        "budget_p50_us": BUDGET_US,
        "doors": rows,
        "machine": describe_machine(),
        "versions": {
            name: version(name) for name in ("httptools", "tritonclient", "uvicorn") if importlib.util.find_spec(name)
        },
    }
    RESULTS.joinpath("serving.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
