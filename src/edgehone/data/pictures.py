"""Pictures in folders: one sub-folder per class. Needs the extra `images`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from edgehone.data.encode import Array
from edgehone.data.examples import Examples
from edgehone.data.readers import ItemReader, open_reader
from edgehone.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Pictures:
    """A folder of pictures, when the defaults of a plain path do not fit.

    Attributes:
        folder: holds one sub-folder per class; class ids follow the sorted names.
        size: (height, width) that every picture is resized to; None demands that they are all alike.
        mode: "RGB" for three channels, "L" for one.
    """

    folder: str | Path
    size: tuple[int, int] | None = None
    mode: Literal["RGB", "L"] = "RGB"


def open_pictures(
    pictures: Pictures, *, origin: str, class_names: tuple[str, ...] | None, memory_limit_bytes: int
) -> Examples:
    """Examples of a folder: x (N, 3 or 1, H, W) uint8 in the order of class, then file name.

    Files that are no pictures by their suffix are passed over, and so are hidden ones.

    Raises:
        DataError: no such folder, no sub-folder, a class without pictures or that is not in `class_names`, a picture
            that cannot be read or that differs in size.
        MissingExtraError: pillow is not installed.
    """
    folder = Path(pictures.folder)
    where = f"{origin} ({folder})"
    if not folder.is_dir():
        raise DataError("there is no such folder", where=where, do="give a folder with one sub-folder per class")
    found = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not found:
        raise DataError("the folder holds no sub-folder", where=where, do="make one sub-folder per class")
    names = class_names or found
    files: list[Path] = []
    ids: list[int] = []
    for name in found:
        if name not in names:
            raise DataError(
                f"sub-folder {name!r} is not among the classes {', '.join(names)}",
                where=where,
                do="add it to the training split or to the task's labels, or remove it",
            )
        inside = sorted(
            file for file in (folder / name).iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."
        )
        if not inside:
            raise DataError(f"sub-folder {name!r} holds no picture", where=where, do="add pictures or remove it")
        files += inside
        ids += [names.index(name)] * len(inside)
    reader = ItemReader(len(files), lambda index: _read(files[index], files[0], pictures), where)
    x = open_reader(reader, memory_limit_bytes)
    return Examples(x, torch.tensor(ids, dtype=torch.int64), class_names=names, origin=origin)


def _read(file: Path, first: Path, pictures: Pictures) -> Array:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "pictures need pillow", where=str(pictures.folder), do="pip install 'edgehone[images]'"
        ) from error
    try:
        with Image.open(file) as opened:
            picture: Image.Image = opened.convert(pictures.mode)
        if pictures.size is not None:
            picture = picture.resize(pictures.size[::-1], Image.Resampling.BILINEAR)
        elif file != first and picture.size != _size(first):
            width, height = _size(first)
            raise DataError(
                f"the picture is {picture.width}x{picture.height} pixels, the first one {width}x{height}",
                where=str(file),
                do=f"hand in Pictures({str(pictures.folder)!r}, size=({height}, {width})) to resize all of them",
            )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the picture cannot be read: {error}", where=str(file), do="replace or remove it") from error
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))  # (H, W, C) → (C, H, W)


def _size(file: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(file) as opened:
        return opened.size
