"""A real PostgreSQL for tests: a server in a temporary folder, reached through a Unix socket, gone afterwards.

    with start() as server:
        url = server.new_database()

One server serves many databases; each test takes a fresh one. The server ends with the process that started it, however
that ends (the kernel stops it), and its folder is removed when it is stopped.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from edgehone.errors import HostError

_USER = "postgres"  # PostgreSQL refuses to run as root
_START_S = 60.0
_SORTS_LIKE_A_PERSON = ("--locale-provider=icu", "--icu-locale=en-US")  # as many servers do: "a", "B", "b"
_FAST = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


class Server:
    """A running server.

    Attributes:
        folder: its socket, data and log.
    """

    def __init__(self, folder: Path, binaries: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self._binaries = binaries
        self._process = process
        self._numbers = itertools.count(1)

    def url(self, database: str) -> str:
        """The URL of a database here."""
        return f"postgresql://{_USER}@/{database}?host={quote(str(self.folder), safe='')}"

    def new_database(self, *, template: str = "template0") -> str:
        """Make a database, a copy of another one if need be, and return its URL."""
        name = f"test{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database; who is still connected is thrown out."""
        name = url.rpartition("/")[2].partition("?")[0]
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str, *, database: str = "postgres") -> None:
        """Run a statement that is no part of a transaction."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def stop(self, *, signal: str = "INT") -> None:
        """Stop it: "INT" throws clients out, "QUIT" stops as a crash would. Fine to call twice."""
        if self._process.poll() is None:
            self._process.send_signal({"INT": 2, "QUIT": 3}[signal])
            self._process.wait(_START_S)

    def start_again(self) -> None:
        """Start it on the same data after `stop`."""
        self._process = _serve(self.folder, self._binaries, durable=False)
        _wait(self.folder, self._binaries, self._process)


def find_binaries() -> Path | None:
    """The folder of PostgreSQL's programs, None where it is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if debian:
        return debian[-1].parent
    found = shutil.which("postgres")
    return Path(found).parent if found else None


@contextmanager
def start(*, durable: bool = False) -> Iterator[Server]:
    """A server with nothing in it, while the block runs.

    Args:
        durable: have it write to disk what it says it has written; slower.

    Raises:
        HostError: PostgreSQL is not installed, or does not start.
    """
    server = launch(durable=durable)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def launch(*, durable: bool = False) -> Server:
    """As `start`, without an end: the caller stops it and removes its folder.

    Raises:
        HostError: PostgreSQL is not installed, or does not start.
    """
    binaries = find_binaries()
    if binaries is None:
        raise HostError("PostgreSQL is not installed", where="postgres", do="apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="edgehone-pg-"))  # short: a socket's path has at most 107 bytes
    try:
        if os.geteuid() == 0:
            user = pwd.getpwnam(_USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
        made = subprocess.run(
            [*_as_user(), str(binaries / "initdb"), "-D", str(folder / "data"), "-U", _USER, "--auth=trust",
             "--encoding=UTF8", "--no-locale", *_SORTS_LIKE_A_PERSON, *(() if durable else ("--no-sync",))],
            capture_output=True, text=True, cwd=folder, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            raise HostError(f"initdb failed: {made.stderr.strip()[-400:]}", where=str(folder))
        process = _serve(folder, binaries, durable=durable)
        _wait(folder, binaries, process)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Server(folder, binaries, process)


def _serve(folder: Path, binaries: Path, *, durable: bool) -> subprocess.Popen[bytes]:
    settings = [
        "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "max_connections=60",
        "-c", "shared_buffers=32MB", "-c", "autovacuum=off", *(() if durable else _FAST),
    ]  # fmt: skip
    command = [*_as_user(), "--pdeathsig", "INT"] if _as_user() else ["setpriv", "--pdeathsig", "INT"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, str(binaries / "postgres"), "-D", str(folder / "data"), *settings],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip


def _wait(folder: Path, binaries: Path, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + _START_S
    ask = [str(binaries / "pg_isready"), "-q", "-h", str(folder)]
    while subprocess.run(ask, check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > ends_s:
            process.kill()
            process.wait()
            said = (folder / "log").read_text(errors="replace").strip()[-400:]
            raise HostError(f"PostgreSQL does not start: {said}", where=str(folder))
        time.sleep(0.05)


def _as_user() -> Sequence[str]:
    """The start of a command that runs as PostgreSQL's own user; nothing when we are no root."""
    return ["setpriv", "--reuid", _USER, "--regid", _USER, "--clear-groups"] if os.geteuid() == 0 else []
