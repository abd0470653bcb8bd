"""Everything that may be handed in as a split, and every way it can be wrong."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from edgehone.data import Pictures, Table
from edgehone.data.examples import Examples
from edgehone.data.sources import open_examples
from edgehone.errors import DataError

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


def open_(source: object, kind: str = "classification", **options: object) -> Examples:
    return open_examples(source, kind, origin="training split", **options)


def refused(source: object, kind: str = "classification", **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        open_(source, kind, **options)
    assert caught.value.where.startswith("training split") or Path(caught.value.where).exists()
    assert caught.value.do
    return caught.value


class Items(torch.utils.data.Dataset):
    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


# Arrays -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16])
def test_numbers_become_float32(dtype: type) -> None:
    x = (X * 10).astype(dtype)
    stored = open_((x, Y)).stored(0, 6)
    assert stored.dtype == torch.float32
    assert np.array_equal(stored.numpy(), x.astype(np.float32))


def test_tensors_lists_and_booleans() -> None:
    assert np.array_equal(open_((torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y))).arrays()[0], X)
    assert np.array_equal(open_([X.tolist(), Y.tolist()]).arrays()[0], X)
    assert open_((X > 0, Y)).stored(0, 1).dtype == torch.uint8
    assert open_((torch.from_numpy(X).bfloat16(), Y)).stored(0, 1).dtype == torch.float32


def test_examples_pass_through() -> None:
    examples = open_((X, Y))
    assert open_(examples) is examples


@pytest.mark.parametrize("y", [Y, Y.astype(np.float64), Y[:, None], Y.astype(np.uint8), torch.from_numpy(Y)])
def test_class_ids_in_any_dress(y: object) -> None:
    examples = open_((X, y))
    assert examples.y.tolist() == Y.tolist()
    assert examples.y.dtype == torch.int64


def test_class_names_sort_into_ids() -> None:
    examples = open_((X, np.array(["b", "c", "a", "b", "c", "a"])))
    assert examples.class_names == ("a", "b", "c")
    assert examples.y.tolist() == [1, 2, 0, 1, 2, 0]
    given = open_((X, np.array(list("bcabca"), object)), class_names=("c", "b", "a"))
    assert given.y.tolist() == [1, 0, 2, 1, 0, 2]


def test_an_unknown_class_name() -> None:
    error = refused((X, np.array(list("bcabcz"))), class_names=("a", "b", "c"))
    assert "'z'" in error.what and "a, b, c" in error.what


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.full((6, 4), np.nan), "example 0 holds NaN (6 of 6"),
        (np.where(np.arange(24).reshape(6, 4) == 9, np.inf, X), "example 2 holds an infinite value (1 of 6"),
        (np.full((6, 4), 1e300), "infinite"),
        (X[:, 0], "shape (6,)"),
        (np.zeros((6, 1, 1, 1, 1)), "shape (6, 1, 1, 1, 1)"),
        (np.zeros((6, 0)), "empty, shape (0,)"),
        (X.astype(complex), "complex128"),
        (X.astype(str), "not numbers"),
        ([[1, 2], [1], [1], [1], [1], [1]], "different lengths"),
        ([object()] * 6, "objects"),
        (X[:5], "5 examples and 6 targets"),
        (3, "single numbers"),
    ],
)
def test_wrong_inputs(x: object, said: str) -> None:
    assert said in refused((x, Y)).what


@pytest.mark.parametrize(
    ("y", "kind", "said", "do"),
    [
        ([0, 1, -1, 0, 1, 1], "classification", "example 2 has the label -1", "from 0 up"),
        ([0, 1, 0.5, 0, 1, 1], "classification", "no class ids", "regression"),
        ([0, 1, np.nan, 0, 1, 1], "classification", "no class ids", "integers"),
        (np.eye(6), "classification", "shape (6, 6)", "argmax"),
        ([0, 1, 2, 0, 1, 1], "anomaly", "example 2 has the label 2", "0 for normal"),
        (["a"] * 6, "regression", "targets are <U1", "numbers"),
        ([0, 1, np.inf, 0, 1, 1], "regression", "target 2 is not finite", "drop"),
        (np.zeros((6, 2, 2)), "regression", "shape (6, 2, 2)", "(N, K)"),
    ],
)
def test_wrong_targets(y: object, kind: str, said: str, do: str) -> None:
    error = refused((X, y), kind)
    assert said in error.what
    assert do in error.do


def test_an_empty_split() -> None:
    assert "no examples" in refused((X[:0], Y[:0])).what


def test_regression_targets() -> None:
    assert open_((X, Y * 0.5), "regression").y.tolist() == (Y * 0.5).tolist()
    assert open_((X, np.stack([Y, Y], 1)), "regression").y.shape == (6, 2)


def test_anomaly_data_needs_no_targets_to_train() -> None:
    assert open_(X, "anomaly").y.tolist() == [0] * 6
    assert open_(Items(*X), "anomaly").y.tolist() == [0] * 6


@pytest.mark.parametrize("source", [X, (X, Y, Y), {"x": X, "y": Y}, 7, object()])
def test_what_is_no_data(source: object) -> None:
    assert "is no data" in refused(source).what


# Datasets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_datasets(limit: int) -> None:
    dataset = Items(*((torch.from_numpy(x), int(y)) for x, y in zip(X, Y, strict=True)))
    examples = open_(dataset, memory_limit_bytes=limit)
    x, y = next(examples.batches(6))
    assert np.array_equal(x.numpy(), X) and y.tolist() == Y.tolist()


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize(
    ("items", "where", "said"),
    [
        (((X[0], 0), (X[1][:3], 1)), "training split", "example 1 has shape (3,), the first one (4,)"),
        (((X[0], 0), (X[1] * np.nan, 1)), "training split, example 1", "NaN"),
        (((X[0], 0), X[1]), "training split, example 1", "ndarray, not a pair"),
        (((X[0], 0, 1),), "training split, example 0", "tuple of 3"),
        (((X[0], 0), (object(), 1)), "training split, example 1", "object objects"),
        (((X[0], 0), (X[1], -1)), "training split", "label -1"),
        ((), "training split", "no examples"),
    ],
)
def test_wrong_items(limit: int, items: tuple[object, ...], where: str, said: str) -> None:
    error = refused(Items(*items), memory_limit_bytes=limit)
    assert said in error.what
    assert error.where == where


def test_a_dataset_that_raises() -> None:
    class Broken(Items):
        def __getitem__(self, index: int) -> object:
            if index == 2:
                raise KeyError("no such row")
            return super().__getitem__(index)

    error = refused(Broken((X[0], 0), (X[1], 1), (X[2], 2)))
    assert "KeyError" in error.what and error.where == "training split, example 2"


def test_iterable_datasets_are_refused() -> None:
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self) -> object:
            return iter(())

    assert "map-style" in refused(Endless()).do


# Folders of pictures ------------------------------------------------------------------------------------------------


def write_pictures(folder: Path) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    written = {}
    for name in ("dog/1.png", "cat/2.png", "cat/1.png"):
        written[name] = generator.integers(0, 256, (5, 6, 3), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(written[name]).save(folder / name)
    (folder / "cat" / "notes.txt").write_text("not a picture")
    (folder / ".hidden").mkdir()
    return written


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_pictures(tmp_path: Path, limit: int) -> None:
    written = write_pictures(tmp_path)
    examples = open_(str(tmp_path), memory_limit_bytes=limit)
    expected = np.stack([written[name].transpose(2, 0, 1) for name in ("cat/1.png", "cat/2.png", "dog/1.png")])
    assert np.array_equal(examples.stored(0, 3).numpy(), expected)
    assert examples.y.tolist() == [0, 0, 1]
    assert examples.class_names == ("cat", "dog")


def test_pictures_resized_and_grey(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    Image.new("RGB", (20, 10)).save(tmp_path / "cat" / "3.png")
    examples = open_(Pictures(tmp_path, size=(4, 8), mode="L"))
    assert examples.x_shape == (1, 4, 8)
    assert len(examples) == 4


def test_class_ids_follow_the_given_names(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    assert open_(tmp_path, class_names=("bird", "cat", "dog")).y.tolist() == [1, 1, 2]
    assert "'dog'" in refused(tmp_path, class_names=("bird", "cat")).what


def test_pictures_of_two_sizes(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    Image.new("RGB", (20, 10)).save(tmp_path / "cat" / "3.png")
    error = refused(tmp_path)
    assert "20x10 pixels, the first one 6x5" in error.what
    assert error.where.endswith("3.png") and "size=(5, 6)" in error.do


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "cat" / "2.png").write_bytes(b"\x89PNG nonsense")
    error = refused(tmp_path)
    assert "cannot be read" in error.what and error.where.endswith("2.png")


def test_a_picture_that_is_cut_off(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    file = tmp_path / "cat" / "2.png"
    file.write_bytes(file.read_bytes()[:60])
    assert "cannot be read" in refused(tmp_path).what


def test_folders_without_pictures(tmp_path: Path) -> None:
    assert "no sub-folder" in refused(tmp_path).what
    write_pictures(tmp_path)
    (tmp_path / "eel").mkdir()
    assert "'eel' holds no picture" in refused(tmp_path).what
    assert "no such folder" in refused(Pictures(tmp_path / "nowhere")).what


def test_pictures_are_no_regression(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    assert "holds classes" in refused(tmp_path, "regression").what


# Tables and archives ------------------------------------------------------------------------------------------------


def test_csv_takes_the_last_column(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,b,kind\n1,2.5,x\n3,4.5,y\n5,-1e3,x\n")
    examples = open_(file)
    assert np.array_equal(examples.arrays()[0], np.array([[1, 2.5], [3, 4.5], [5, -1000]], np.float32))
    assert examples.y.tolist() == [0, 1, 0] and examples.class_names == ("x", "y")


def test_a_column_called_label_is_the_target(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("label,a,b\n1,2,3\n0,4,5\n")
    assert open_(file).y.tolist() == [1, 0]
    assert open_(Table(file, target="a"), "regression").y.tolist() == [2, 4]


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.5, 2.5], "flag": [True, False], "y": [0.5, 1.5]}), file)
    examples = open_(file, "regression")
    assert examples.arrays()[0].tolist() == [[1.5, 1], [2.5, 0]]
    assert examples.y.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,0\n,1\n", "column 'a' has gaps in 1 of 2 rows, the first in data row 2"),
        ("a,b\nred,0\nblue,1\n", "column 'a' holds string"),
        ("1,0\n2,1\n", "first line holds numbers"),
        ("a,a,b\n1,1,0\n", "column 'a' exists twice"),
        ("b\n1\n", "no column besides"),
        ("a,b\n1,0\n1,2,3\n", "cannot be read"),
        ("a,b\nnan,0\n1,1\n", "column 'a' has gaps"),
        ("a,b\ninf,0\n1,1\n", "infinite"),
        ("a,b\n", "no examples"),
        ("", "cannot be read"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    assert said in refused(file).what


def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,b\n1,0\n")
    error = refused(Table(file, target="c"))
    assert "'c'" in error.what and "a, b" in error.do


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    file.write_bytes(b"nonsense")
    assert "cannot be read" in refused(file).what
    assert "cannot be read" in refused(Table(tmp_path / "nowhere.csv")).what


def test_npz(tmp_path: Path) -> None:
    file = tmp_path / "t.npz"
    np.savez(file, x=X, y=Y)
    assert np.array_equal(open_(file).arrays()[0], X)
    np.savez(file, x=X)
    assert "no array 'y', only: x" in refused(file).what
    assert len(open_(file, "anomaly")) == 6


def test_wrong_npz(tmp_path: Path) -> None:
    file = tmp_path / "t.npz"
    file.write_bytes(b"PK nonsense")
    assert "cannot be read" in refused(file).what
    np.savez(file, x=X, y=np.array([object()] * 6))
    assert "cannot be read" in refused(file).what  # it would need a pickle


def test_pickles_are_never_read(tmp_path: Path) -> None:
    file = tmp_path / "t.pkl"
    file.write_bytes(pickle.dumps((X, Y)))
    assert "never read" in refused(file).do


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere")
    assert "no such file" in error.what and "nowhere" in error.where
    (tmp_path / "t.txt").write_text("")
    assert "a .txt file" in refused(tmp_path / "t.txt").what
