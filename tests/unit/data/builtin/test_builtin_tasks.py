"""The tasks that come with edgehone: their files, their splits, their networks."""

import gzip
import hashlib
import io
import shutil
import struct
import subprocess
import urllib.error
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from edgehone.data import load_task, prepare
from edgehone.data.builtin import _fashion_mnist_files as files
from edgehone.data.builtin._idx import parse_idx
from edgehone.data.builtin._resnet import ResNet
from edgehone.data.cache import cache_folder
from edgehone.data.load import BUILTIN
from edgehone.errors import DataError, TaskError

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": GENERATOR.integers(0, 256, (120, 28, 28), np.uint8),
    "train-labels-idx1-ubyte": (np.arange(120) % 10).astype(np.uint8),
    "t10k-images-idx3-ubyte": GENERATOR.integers(0, 256, (20, 28, 28), np.uint8),
    "t10k-labels-idx1-ubyte": (np.arange(20) % 10).astype(np.uint8),
}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


CONTENTS = {name: idx(array) for name, array in ARRAYS.items()}


def write(folder: Path, *, packed: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without pictures and without network; the checksums are those of the tiny files above."""
    monkeypatch.setattr(files, "CHECKSUMS", {n: hashlib.sha256(c).hexdigest() for n, c in CONTENTS.items()})
    monkeypatch.setattr(files, "SYSTEM_FOLDER", tmp_path / "usr")
    monkeypatch.setenv("EDGEHONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEHONE_FASHION_MNIST", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)

    def offline(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(files.urllib.request, "urlopen", offline)
    return tmp_path


def test_names() -> None:
    assert {"digits", "fashion-mnist"} <= set(BUILTIN.names())


def test_digits_are_whole() -> None:
    prepared = prepare(load_task("digits"))
    assert prepared.input_shape == (1, 1, 8, 8)
    assert len(prepared.train) + len(prepared.validation) + len(prepared.test) == 1797
    prints = [set(split.fingerprints()) for split in (prepared.train, prepared.validation, prepared.test)]
    assert not (prints[0] & prints[1] or prints[0] & prints[2] or prints[1] & prints[2])
    x, _ = next(prepared.train.batches(4))
    assert prepared.end_to_end()(x).shape == (4, 10)


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_that_is_given_wins(machine: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setenv("EDGEHONE_FASHION_MNIST", str(write(machine / "given", packed=packed)))
    assert files.read_files() == CONTENTS


@pytest.mark.parametrize("place", ["usr", "cache/fashion-mnist"])
def test_pictures_on_this_machine_are_found(machine: Path, place: str) -> None:
    write(machine / place)
    assert files.read_files() == CONTENTS


def test_the_task_holds_out_the_same_pictures_every_time(machine: Path) -> None:
    write(machine / "usr")
    prepared, again = prepare(load_task("fashion-mnist")), prepare(load_task("fashion-mnist"), seed=9)
    assert (len(prepared.train), len(prepared.validation), len(prepared.test)) == (110, 10, 20)
    assert prepared.validation.digest() == again.validation.digest()
    assert np.array_equal(prepared.test.arrays()[0][:, 0], ARRAYS["t10k-images-idx3-ubyte"])
    assert prepared.train.stored(0, 1).dtype == torch.uint8
    assert prepared.labels[9] == "ankle boot"
    x, _ = next(prepared.train.batches(2, seed=0, augment=prepared.task.augment))
    assert prepared.end_to_end()(x).shape == (2, 10)


def test_nothing_anywhere_lists_the_ways(machine: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_task("fashion-mnist")
    assert "no apt-get" in caught.value.what and "no network" in caught.value.what
    for way in (files.PACKAGE, "EDGEHONE_FASHION_MNIST", files.OFFICIAL_URL, str(cache_folder())):
        assert way in caught.value.do
    assert list((machine / "cache").iterdir()) == []  # no remains


def test_a_given_folder_without_the_files(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(machine / "usr")
    monkeypatch.setenv("EDGEHONE_FASHION_MNIST", str(machine / "nowhere"))
    with pytest.raises(DataError, match="no file train-images") as caught:
        files.read_files()
    assert caught.value.where.endswith("nowhere") and files.PACKAGE in caught.value.do


@pytest.mark.parametrize(
    ("content", "said"),
    [(gzip.compress(CONTENTS["t10k-labels-idx1-ubyte"] + b"x", mtime=0), "SHA-256"), (b"nonsense", "cannot be read")],
)
def test_a_wrong_file_is_named(machine: Path, content: bytes, said: str) -> None:
    file = write(machine / "usr") / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        files.read_files()
    assert caught.value.where == str(file)


def serve(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    class Answer(io.BytesIO):
        headers: ClassVar = {"Content-Length": "10"}

    def answer(url: str, timeout: float) -> Answer:
        assert url.startswith(files.OFFICIAL_URL + "/") and timeout > 0
        return Answer(gzip.compress(contents[url.rsplit("/", 1)[1].removesuffix(".gz")]))

    monkeypatch.setattr(files.urllib.request, "urlopen", answer)


def test_the_official_download_fills_the_cache(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENTS)
    assert files.read_files() == CONTENTS
    monkeypatch.setattr(files, "_fetch", lambda _: pytest.fail("fetched again"))
    assert files.read_files() == CONTENTS


def test_a_tampered_download_never_enters_the_cache(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENTS | {"t10k-labels-idx1-ubyte": b"tampered"})
    with pytest.raises(DataError, match="SHA-256"):
        files.read_files()
    assert list((machine / "cache").iterdir()) == []


def test_the_package_is_fetched_first_and_again_with_lists_of_our_own(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SYSTEM_FOLDER", Path("/usr/share/none"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    calls = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        calls.append([part for part in command if part in ("update", "download", "-x")])
        if len(calls) == 1:
            return subprocess.CompletedProcess(command, 100, "", "W: slow\nE: Unable to locate package")
        if "download" in command:
            (cwd / f"{files.PACKAGE}_1_all.deb").touch()
        if "-x" in command:
            write(Path(command[-1]) / "usr/share/none")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert files.read_files() == CONTENTS
    assert calls == [["download"], ["update"], ["download"], ["-x"]]


@pytest.mark.slow
def test_the_real_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHONE_CACHE", str(tmp_path))
    try:
        prepared = prepare(load_task("fashion-mnist"))
    except DataError as error:
        pytest.skip(error.what)
    assert (len(prepared.train), len(prepared.validation), len(prepared.test)) == (55_000, 5_000, 10_000)
    assert prepared.test.y.bincount().tolist() == [1000] * 10
    assert prepared.train.y.bincount().tolist() == [5500] * 10


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x0d\1" + b"\0" * 8, "no IDX file"),
        (b"\0\0\x08\2\0\0", "header is cut off"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "5 values do not make"),
    ],
)
def test_wrong_idx(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_idx(content, "f")


def test_idx() -> None:
    for array in ARRAYS.values():
        assert np.array_equal(parse_idx(idx(array), "f"), array)


@pytest.mark.parametrize("depth", [8, 20])
def test_a_residual_network_has_the_depth_it_says(depth: int) -> None:
    network = ResNet(depth, (4, 8, 16), channels_in=1)
    three = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(three) + 1 == depth  # and the linear layer
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_depths_that_do_not_exist() -> None:
    with pytest.raises(TaskError, match="depth 10"):
        ResNet(10)
