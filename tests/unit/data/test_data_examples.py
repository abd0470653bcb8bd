"""Examples: what comes out is what went in, in memory and streamed alike."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgehone.data.examples import Examples
from edgehone.data.sources import open_examples
from edgehone.errors import DataError

N = 53
X = np.random.default_rng(0).integers(0, 256, (N, 2, 3, 4), np.uint8)
Y = np.arange(N) % 3


class Pairs(torch.utils.data.Dataset):
    """The same pairs, one by one; refuses to be pickled."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(X[index]), int(Y[index])

    def __getstate__(self) -> object:
        raise AssertionError("pickled")


def in_memory() -> Examples:
    return open_examples((X, Y), "classification", origin="training split")


def streamed() -> Examples:
    return open_examples(Pairs(), "classification", origin="training split", memory_limit_bytes=0)


def read() -> Examples:
    return open_examples(Pairs(), "classification", origin="training split")


@pytest.fixture(params=[in_memory, streamed, read], ids=lambda make: make.__name__)
def examples(request: pytest.FixtureRequest) -> Examples:
    make: Callable[[], Examples] = request.param
    return make()


def gather(examples: Examples, size: int, **options: object) -> tuple[np.ndarray, np.ndarray, list[int]]:
    batches = list(examples.batches(size, **options))
    x = torch.cat([x for x, _ in batches]).numpy()
    return x, torch.cat([y for _, y in batches]).numpy(), [len(y) for _, y in batches]


def test_in_order_gives_back_what_went_in(examples: Examples) -> None:
    x, y, sizes = gather(examples, 10)
    assert x.dtype == np.float32
    assert np.array_equal(x, X.astype(np.float32))
    assert np.array_equal(y, Y)
    assert sizes == [10, 10, 10, 10, 10, 3]
    assert (len(examples), examples.x_shape) == (N, (2, 3, 4))


def test_only_a_dataset_beyond_the_limit_is_streamed() -> None:
    exact = X.nbytes
    assert in_memory().in_memory and read().in_memory
    held = open_examples(Pairs(), "classification", origin="s", memory_limit_bytes=exact)
    beyond = open_examples(Pairs(), "classification", origin="s", memory_limit_bytes=exact - 1)
    assert held.in_memory and not beyond.in_memory


def test_pictures_stay_bytes_in_memory() -> None:
    assert in_memory().stored(0, 5).dtype == torch.uint8


def test_a_seed_shuffles_and_repeats(examples: Examples) -> None:
    first = gather(examples, 7, seed=3)
    again = gather(examples, 7, seed=3)
    other = gather(examples, 7, seed=4)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    pairs = {(x.tobytes(), y) for x, y in zip(first[0], first[1], strict=True)}
    assert pairs == {(x.astype(np.float32).tobytes(), y) for x, y in zip(X, Y, strict=True)}


def test_memory_and_stream_shuffle_alike() -> None:
    assert np.array_equal(gather(in_memory(), 7, seed=3)[0], gather(streamed(), 7, seed=3)[0])


def test_drop_last_leaves_only_full_batches(examples: Examples) -> None:
    assert gather(examples, 10, drop_last=True)[2] == [10] * 5
    assert gather(examples, 10, drop_last=True, seed=1)[2] == [10] * 5


def test_augment_sees_floats_and_a_generator_of_the_seed(examples: Examples) -> None:
    def add_chance(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert batch.dtype == torch.float32
        return batch + torch.rand(batch.shape, generator=generator)

    plain = gather(examples, 10, seed=1)[0]
    changed = gather(examples, 10, seed=1, augment=add_chance)[0]
    assert not np.array_equal(plain, changed)
    assert np.abs(plain - changed).max() <= 1
    assert np.array_equal(changed, gather(examples, 10, seed=1, augment=add_chance)[0])


def test_writing_into_a_batch_leaves_the_split_alone() -> None:
    examples = open_examples((X.astype(np.float32), Y), "classification", origin="s")
    for seed in (None, 0):
        for x, _ in examples.batches(10, seed=seed):
            x.zero_()
    assert np.array_equal(examples.arrays()[0], X)


def test_the_split_does_not_follow_the_array_it_came_from() -> None:
    x = X.astype(np.float32)
    examples = open_examples((x, Y), "classification", origin="s")
    x[:] = 0
    assert np.array_equal(examples.arrays()[0], X)


def test_subset_keeps_the_order_asked_for(examples: Examples) -> None:
    chosen = [5, 2, 50]
    x, y, _ = gather(examples.subset(chosen).subset([2, 0]), 10)
    assert np.array_equal(x, X[[50, 5]]) and np.array_equal(y, Y[[50, 5]])


def test_sample_keeps_shares_and_pairs(examples: Examples) -> None:
    sample = examples.sample(9, seed=0)
    x, y, _ = gather(sample, 100)
    assert np.bincount(y).tolist() == [3, 3, 3]
    places = [int(np.flatnonzero((row == X).all((1, 2, 3)))[0]) for row in x]
    assert places == sorted(set(places))
    assert np.array_equal(Y[places], y)
    assert len(examples.sample(1000, seed=0)) == N
    assert len(examples.sample(4, seed=0, stratified=False)) == 4


def test_regression_targets_are_sampled_uniformly() -> None:
    examples = open_examples((X, Y * 0.5), "regression", origin="s")
    assert examples.y.dtype == torch.float32
    assert len(examples.sample(10, seed=0)) == 10


def test_arrays_of_a_stream_are_refused() -> None:
    x, y = in_memory().arrays()
    assert x.dtype == np.float32 and y.dtype == np.int64
    with pytest.raises(DataError, match="too big") as caught:
        streamed().arrays()
    assert "batches" in caught.value.do


def test_digest_is_sha256_of_the_content_and_sees_every_change(examples: Examples) -> None:
    sha = hashlib.sha256()
    sha.update(b"|u1(2, 3, 4)" + X.tobytes() + b"<i8()" + Y.astype("<i8").tobytes())
    assert examples.digest() == sha.hexdigest()
    changed = X.copy()
    changed[17, 0, 0, 0] ^= 1
    assert open_examples((changed, Y), "classification", origin="s").digest() != examples.digest()
    relabelled = Y.copy()
    relabelled[0] = 2
    assert open_examples((X, relabelled), "classification", origin="s").digest() != examples.digest()


def test_the_digest_does_not_depend_on_where_chunks_end() -> None:
    x = np.random.default_rng(0).integers(0, 256, (2500, 3), np.uint8)
    sha = hashlib.sha256(b"|u1(3,)" + x.tobytes() + b"<i8()" + np.zeros(2500, "<i8").tobytes())
    assert open_examples((x, np.zeros(2500, int)), "classification", origin="s").digest() == sha.hexdigest()


def test_fingerprints_are_equal_exactly_when_examples_are(examples: Examples) -> None:
    prints = examples.subset([0, 1, 0]).fingerprints()
    assert prints[0] == prints[2] != prints[1]
    assert prints[0] == in_memory().fingerprints()[0]


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="3 examples and 2 targets"):
        Examples(torch.zeros(3, 1), torch.zeros(2, dtype=torch.int64))
