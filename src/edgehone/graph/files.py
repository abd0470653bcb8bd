"""A graph as one file: a .npz archive that any numpy opens, without pickle.

    graph.json          format, version, input, output, nodes, shapes, and the parameter keys in order
    parameters/0.npy    the first parameter, float32, C order; and so on

The same graph gives the same bytes: fixed order, no compression, and the earliest date that zip can hold. Attributes
are JSON; lists come back as tuples, which is how graphs hold sequences. A file is written beside its place and moved
there, so a reader sees the old file or the new one. Readers refuse a version they do not know.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edgehone.errors import ModelFileError, NetworkError, OutputFolderError
from edgehone.graph.ir import FloatArray, Graph, Node

FORMAT = "edgehone-graph"
VERSION = 1

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_DAMAGE = (  # every field of a damaged file may be missing or of another type, every entry garbled
    zipfile.BadZipFile,
    zlib.error,
    NetworkError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
)


def save_graph(graph: Graph, path: Path | str) -> None:
    """Write a graph.

    Raises:
        OutputFolderError: the file cannot be written; what was at `path` before is still there.
        NetworkError: the graph is not well formed.
    """
    path = Path(path)
    data = _to_bytes(graph.check())
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # the temporary file of the standard library is private to its owner
        temporary.replace(path)
    except OSError as error:
        raise OutputFolderError(
            f"the graph cannot be written: {error.strerror or error}",
            where=str(path),
            do="choose a folder that can be written and has free space",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)  # it is gone when all went well


def load_graph(path: Path | str) -> Graph:
    """Read a graph that `save_graph` wrote.

    Raises:
        ModelFileError: the file is missing, unreadable, damaged, no graph, or of a newer version.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read("graph.json"))
            return _from_archive(header, archive, path)
    except FileNotFoundError as error:
        raise ModelFileError("no such file", where=str(path), do="check the path") from error
    except OSError as error:
        raise ModelFileError(
            f"cannot be read: {error.strerror or error}", where=str(path), do="check the path"
        ) from error
    except _DAMAGE as error:
        reason = error.what if isinstance(error, NetworkError) else str(error) or type(error).__name__
        raise ModelFileError(
            f"is not a graph file or is damaged: {reason}", where=str(path), do="write it again from the network"
        ) from error


def _to_bytes(graph: Graph) -> bytes:
    header = {
        "format": FORMAT,
        "version": VERSION,
        "input": graph.input,
        "output": graph.output,
        "nodes": [_node_to_json(node) for node in graph.nodes],
        "shapes": {name: list(shape) for name, shape in graph.shapes.items()},
        "parameters": list(graph.params),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("graph.json"), json.dumps(header, ensure_ascii=False).encode())
        for position, array in enumerate(graph.params.values()):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.asarray(array, "<f4", order="C"), version=(1, 0), allow_pickle=False)
            archive.writestr(_entry(f"parameters/{position}.npy"), part.getvalue())
    return buffer.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, so that every system writes the same bytes
    return entry


def _node_to_json(node: Node) -> dict[str, Any]:
    return {
        "op": node.op,
        "inputs": list(node.inputs),
        "output": node.output,
        "attrs": dict(node.attrs),
        "params": dict(node.params),
        "module": node.module,
        "activation": node.activation,
    }


def _from_archive(header: dict[str, Any], archive: zipfile.ZipFile, path: Path) -> Graph:
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}")
    if header["version"] != VERSION:
        raise ModelFileError(
            f"is a graph file of version {header['version']}; this edgehone reads version {VERSION}",
            where=str(path),
            do="update edgehone, or write the file again with this one",
        )
    params = {
        str(key): _read_parameter(archive, f"parameters/{position}.npy")
        for position, key in enumerate(header["parameters"])
    }
    return Graph(
        input=header["input"],
        output=header["output"],
        nodes=tuple(_node_from_json(node) for node in header["nodes"]),
        shapes={name: tuple(shape) for name, shape in header["shapes"].items()},
        params=params,
    ).check()


def _read_parameter(archive: zipfile.ZipFile, name: str) -> FloatArray:
    array = np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
    if array.dtype != np.float32:
        raise ValueError(f"{name} is {array.dtype}, not float32")
    return np.array(array, np.float32, order="C")


def _node_from_json(node: dict[str, Any]) -> Node:
    return Node(
        op=node["op"],
        inputs=tuple(node["inputs"]),
        output=node["output"],
        attrs={key: _tuples(value) for key, value in node["attrs"].items()},
        params=dict(node["params"]),
        module=node["module"],
        activation=node["activation"],
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
