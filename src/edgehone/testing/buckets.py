"""A bucket on loopback that speaks as much S3 as a registry needs, over real HTTP; objects are files in a folder.

with bucket(folder) as environment:           # environment variables for the client
    open_store("s3://models/registry")        # the object metadata/1.root.json is FOLDER/metadata/1.root.json

It checks conditions (`If-Match`, `If-None-Match`) as S3 does and no signatures. Source: Amazon S3 API reference,
PutObject, GetObject, DeleteObjects, ListObjectsV2.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

_BUCKET, _PREFIX = "/models/", "registry/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: object, folder: Path, lock: threading.Lock) -> None:
        self._folder, self._lock = folder, lock
        super().__init__(*arguments)  # type: ignore[arg-type]  # what the server hands on

    def do_PUT(self) -> None:
        """An object, if the condition holds."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        file = self._file()
        with self._lock:
            mark, wanted = _mark(file), self.headers.get("If-Match")
            if (wanted is not None and wanted != mark) or (self.headers.get("If-None-Match") == "*" and mark):
                self._answer(HTTPStatus.PRECONDITION_FAILED)
                return
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{threading.get_ident()}")
            temporary.write_bytes(content)
            temporary.replace(file)
        self._answer(HTTPStatus.OK, headers={"ETag": _mark(file)})

    def do_GET(self) -> None:
        """An object, or the list of them."""
        parts = urlsplit(self.path)
        if "list-type=2" in parts.query:
            self._list(parse_qs(parts.query).get("prefix", [""])[0])
            return
        file = self._file()
        try:
            content, seconds = file.read_bytes(), file.stat().st_mtime
        except OSError:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        self._answer(HTTPStatus.OK, content, {"ETag": _mark(file), "Last-Modified": formatdate(seconds, usegmt=True)})

    def do_POST(self) -> None:
        """No such objects any more; fine when there were none."""
        wanted = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        keys = [unescape(key) for key in re.findall("<Key>(.*?)</Key>", wanted)]
        for key in keys:
            (self._folder / key.removeprefix(_PREFIX)).unlink(missing_ok=True)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(
            HTTPStatus.OK, f"<DeleteResult>{gone}</DeleteResult>".encode(), {"Content-Type": "application/xml"}
        )

    def _list(self, prefix: str) -> None:
        items = []
        for file in sorted(self._folder.rglob("*")):
            key = _PREFIX + file.relative_to(self._folder).as_posix()
            if file.is_file() and key.startswith(prefix):
                modified = datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                items.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
                    f"<ETag>{escape(_mark(file))}</ETag><Size>{file.stat().st_size}</Size></Contents>"
                )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
        self._answer(HTTPStatus.OK, body.encode(), {"Content-Type": "application/xml"})

    def _file(self) -> Path:
        return self._folder / unquote(urlsplit(self.path).path).removeprefix(_BUCKET).removeprefix(_PREFIX)

    def _answer(self, status: HTTPStatus, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


def _mark(file: Path) -> str:
    """The ETag of an object, empty where there is none."""
    try:
        return f'"{hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()}"'
    except OSError:
        return ""


@contextmanager
def bucket(folder: Path) -> Iterator[dict[str, str]]:
    """Serve a folder as s3://models/registry; gives the environment variables that a client needs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder=folder, lock=threading.Lock()))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield {
            "AWS_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
