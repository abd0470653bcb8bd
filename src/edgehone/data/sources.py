"""What may be handed in as a split, and how each of it becomes `Examples`.

    (x, y)                 numpy arrays or tensors; x alone for an anomaly task
    torch Dataset          map style, items (x, y)
    "pictures/"            a folder with one sub-folder per class, or `Pictures(...)` for a size or one channel
    "table.csv"            or .parquet, or `Table(...)` to name the target
    "arrays.npz"           with x and y
    Examples               as they are

A path decides by what it is. Pickles are never read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from edgehone.data.encode import encode_inputs, encode_targets, to_array
from edgehone.data.examples import MEMORY_LIMIT_BYTES, Examples
from edgehone.data.pictures import Pictures, open_pictures
from edgehone.data.readers import open_dataset
from edgehone.data.tables import SUFFIXES as TABLE_SUFFIXES
from edgehone.data.tables import Table, open_table
from edgehone.errors import DataError
from edgehone.task import Kind

_ACCEPTED = "give (x, y) arrays, a torch Dataset, a folder of pictures, or a .csv, .parquet or .npz file"
_PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".joblib"})


def open_examples(
    source: object,
    kind: Kind,
    *,
    origin: str,
    class_names: tuple[str, ...] | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Examples:
    """Open one split.

    Args:
        source: one of the forms in the module docstring.
        kind: the kind of the task, which decides what targets are.
        origin: what to call the split in messages, like "training split".
        class_names: names by id that folders and columns of names must be among; None takes theirs, sorted.
        memory_limit_bytes: datasets and pictures larger than this are streamed.

    Raises:
        DataError: anything that cannot be used, with the file or the example.
        MissingExtraError: pillow or pyarrow is needed and not installed.
    """
    if isinstance(source, (str, Path)):
        source = _from_path(Path(source), kind, origin)
    if isinstance(source, Examples):
        return source
    if isinstance(source, Pictures):
        if kind == "regression":
            raise DataError("a folder of pictures holds classes", where=origin, do="give (x, y) arrays for regression")
        return open_pictures(source, origin=origin, class_names=class_names, memory_limit_bytes=memory_limit_bytes)
    if isinstance(source, Table):
        return open_table(source, kind, origin=origin, class_names=class_names)
    if isinstance(source, Dataset):
        return open_dataset(source, kind, origin=origin, class_names=class_names, memory_limit_bytes=memory_limit_bytes)
    return _open_arrays(source, kind, origin, class_names)


def _from_path(path: Path, kind: Kind, origin: str) -> object:
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError("there is no such file or folder", where=f"{origin} ({path})", do="check the path")
    if path.is_dir():
        return Pictures(path)
    if suffix in TABLE_SUFFIXES:
        return Table(path)
    if suffix == ".npz":
        return _read_npz(path, kind, origin)
    hint = "pickles are never read, they can run any code: save arrays with numpy.savez" if suffix in _PICKLES else ""
    raise DataError(f"a {suffix or 'nameless'} file is no data", where=f"{origin} ({path})", do=hint or _ACCEPTED)


def _read_npz(path: Path, kind: Kind, origin: str) -> object:
    where = f"{origin} ({path})"
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("x", "y") if key not in archive and not (key == "y" and kind == "anomaly")]
            if missing:
                raise DataError(
                    f"the file holds no array {missing[0]!r}, only: {', '.join(archive.files) or 'nothing'}",
                    where=where,
                    do="save it with numpy.savez(path, x=x, y=y)",
                )
            return (archive["x"], archive["y"]) if "y" in archive else archive["x"]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"the file cannot be read: {error}", where=where, do="save it with numpy.savez") from error


def _open_arrays(source: object, kind: Kind, origin: str, class_names: tuple[str, ...] | None) -> Examples:
    if kind == "anomaly" and isinstance(source, (np.ndarray, Tensor)):
        source = (source, np.zeros(len(source), np.int64))
    if not (isinstance(source, (tuple, list)) and len(source) == 2):
        raise DataError(f"a {type(source).__name__} is no data", where=origin, do=_ACCEPTED)
    x = to_array(source[0], origin, "examples")
    y = to_array(source[1], origin, "targets")
    if x.ndim == 0 or y.ndim == 0:
        raise DataError("x and y are single numbers", where=origin, do=_ACCEPTED)
    if len(x) != len(y):
        raise DataError(f"there are {len(x)} examples and {len(y)} targets", where=origin, do="give one target each")
    encoded, names = encode_targets(y, kind, origin, class_names)
    return Examples(encode_inputs(x, origin), encoded, class_names=names, origin=origin)
