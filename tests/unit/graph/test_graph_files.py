"""Graphs on disk: they come back the same, byte for byte alike, whole or not at all; damage is told apart from data."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgehone.errors import ModelFileError, OutputFolderError
from edgehone.graph.files import load_graph, save_graph
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph, Node
from edgehone.graph.trace import trace
from edgehone.testing.networks import NETWORKS, example_shape


def small() -> Graph:
    nodes = (
        Node("pad", ("x",), "p", {"pads": ((0, 0), (1, 2)), "value": float("-inf")}, module="a.b"),
        Node("linear", ("p",), "y", {}, {"weight": "fc.weight", "bias": "fc.bias"}, "fc", "relu"),
    )
    params = {"fc.weight": np.arange(6, dtype=np.float32).reshape(1, 6), "fc.bias": np.zeros(1, np.float32)}
    return Graph("x", "y", nodes, {"x": (1, 3), "p": (1, 6), "y": (1, 1)}, params).check()


def same(a: Graph, b: Graph) -> bool:
    keys = list(a.params) == list(b.params)
    arrays = keys and all(np.array_equal(a.params[key], b.params[key]) for key in a.params)
    return arrays and (a.input, a.output, a.nodes, dict(a.shapes)) == (b.input, b.output, b.nodes, dict(b.shapes))


@pytest.mark.parametrize("name", ["resnet20-option-a", "mobilenet-v3", "conv1d-net", "shuffle-net", "u-net"])
def test_graphs_come_back_the_same(name: str, tmp_path: Path) -> None:
    graph = trace(NETWORKS[name](), torch.randn(2, *example_shape(name)[1:]))
    for form in (graph, deploy(graph)):
        save_graph(form, tmp_path / "graph.npz")
        back = load_graph(tmp_path / "graph.npz")
        assert same(back, form)
        assert all(
            isinstance(value, tuple) or not isinstance(value, list) for n in back.nodes for value in n.attrs.values()
        )


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    save_graph(small(), tmp_path / "one.npz")
    save_graph(load_graph(tmp_path / "one.npz"), tmp_path / "deep" / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "deep" / "two.npz").read_bytes()


def test_numpy_opens_the_file(tmp_path: Path) -> None:
    save_graph(small(), tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["parameters/0"], small().params["fc.weight"])


def test_arrays_read_are_our_own_to_write(tmp_path: Path) -> None:
    save_graph(small(), tmp_path / "g.npz")
    load_graph(tmp_path / "g.npz").params["fc.bias"][0] = 1.0


def test_damage_anywhere_is_a_model_file_error(tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    save_graph(small(), path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        with pytest.raises(ModelFileError):
            load_graph(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert same(load_graph(path), small())  # some bytes (dates, permissions) mean nothing
        except ModelFileError as error:
            assert error.where == str(path)


def rewritten(path: Path, **changes: object) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(entries["graph.json"]) | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (entries | {"graph.json": json.dumps(header).encode()}).items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "'other'"),
        ({"nodes": [{"op": "relu"}]}, "damaged"),
        ({"nodes": 3}, "damaged"),
        ({"shapes": {}}, "no shape"),
        ({"parameters": ["fc.weight"]}, "'fc.bias' is missing"),
        ({"parameters": ["fc.weight", "fc.bias", "more"]}, "damaged"),
        ({"output": "z"}, "never written"),
    ],
)
def test_headers_that_do_not_fit_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    save_graph(small(), tmp_path / "g.npz")
    rewritten(tmp_path / "g.npz", **changes)
    with pytest.raises(ModelFileError, match=message):
        load_graph(tmp_path / "g.npz")


def test_a_parameter_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    save_graph(small(), tmp_path / "g.npz")
    with zipfile.ZipFile(tmp_path / "g.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    entries["parameters/0.npy"] = (tmp_path / "evil.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "g.npz", "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(ModelFileError, match="allow_pickle"):
        load_graph(tmp_path / "g.npz")


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        load_graph(tmp_path / "none.npz")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_graph(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputFolderError):
        save_graph(small(), tmp_path / "file" / "g.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g.npz"
    save_graph(small(), path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputFolderError, match="No space left"):
        save_graph(deploy(small()), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["g.npz"]
