"""CSV and Parquet tables: one row per example, one column per feature. Needs the extra `tables`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgehone.data.encode import Array, encode_inputs, encode_targets
from edgehone.data.examples import Examples
from edgehone.errors import DataError, MissingExtraError
from edgehone.task import Kind

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = frozenset({".csv", ".parquet"})


@dataclass(frozen=True)
class Table:
    """A table, when the defaults of a plain path do not fit.

    Attributes:
        path: a .csv file whose first line names the columns, or a .parquet file.
        target: the column to predict; None takes the one called "label", else the last one.
    """

    path: str | Path
    target: str | None = None


def open_table(table: Table, kind: Kind, *, origin: str, class_names: tuple[str, ...] | None) -> Examples:
    """Examples of a table: x (N, F) float32 in the order of the columns.

    Raises:
        DataError: a file that cannot be read, no such target, a feature that is no number, or a gap.
        MissingExtraError: pyarrow is not installed.
    """
    path = Path(table.path)
    where = f"{origin} ({path})"
    columns = _columns(path, where)
    names = [name for name, _ in columns]
    target = table.target or ("label" if "label" in names else names[-1])
    if target not in names:
        raise DataError(f"there is no column {target!r}", where=where, do=f"choose one of: {', '.join(names)}")
    features = [_feature(name, column, where) for name, column in columns if name != target]
    if not features:
        raise DataError("the table has no column besides the target", where=where, do="give at least one feature")
    y = _values(target, dict(columns)[target], where)
    encoded, classes = encode_targets(y, kind, where, class_names)
    return Examples(encode_inputs(np.stack(features, 1), where), encoded, class_names=classes, origin=origin)


def _columns(path: Path, where: str) -> list[tuple[str, pyarrow.ChunkedArray]]:
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise MissingExtraError("tables need pyarrow", where=where, do="pip install 'edgehone[tables]'") from error
    try:
        read = csv.read_csv if path.suffix.lower() == ".csv" else parquet.read_table
        loaded = read(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"the table cannot be read: {error}", where=where, do="check the path and the file") from error
    names = loaded.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"column {twice[0]!r} exists twice", where=where, do="rename or drop one of them")
    if all(_is_number(name) for name in names):
        raise DataError("the first line holds numbers", where=where, do="name the columns in the first line")
    if not loaded.num_rows:
        raise DataError("there are no examples", where=where, do="give a table with at least one row")
    return list(zip(names, loaded.columns, strict=True))


def _feature(name: str, column: pyarrow.ChunkedArray, where: str) -> Array:
    values = _values(name, column, where)
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"column {name!r} holds {column.type}, not numbers", where=where, do="encode it as numbers or drop it"
        )
    return values.astype(np.float64)


def _values(name: str, column: pyarrow.ChunkedArray, where: str) -> Array:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(
            f"column {name!r} has gaps in {column.null_count} of {len(column)} rows, the first in data row {row + 1}",
            where=where,
            do="fill the gaps or drop these rows",
        )
    return np.asarray(column.to_numpy())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
