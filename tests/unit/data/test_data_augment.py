"""Augmentations against plain loops."""

import pytest
import torch

from edgehone.data.augment import compose, flip, noise, shift
from edgehone.errors import TaskError


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(200, 1, 3, 4), (200, 2, 9)])
def test_every_shift_is_a_window_of_the_padded_picture(shape: tuple[int, ...]) -> None:
    batch = torch.randn(shape)
    moved = shift(2)(batch, generator())
    assert moved.shape == batch.shape
    offsets = (
        [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)] if len(shape) == 4 else [(d,) for d in range(-2, 3)]
    )
    seen = set()
    for before, after in zip(batch, moved, strict=True):
        matches = [offset for offset in offsets if torch.equal(after, window(before, offset))]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(offsets)


def window(example: torch.Tensor, offset: tuple[int, ...]) -> torch.Tensor:
    """The example moved by `offset`, zeros where nothing was."""
    result = torch.zeros_like(example)
    for place in torch.cartesian_prod(*[torch.arange(n) for n in example.shape[1:]]).reshape(-1, example.ndim - 1):
        source = [int(p) + o for p, o in zip(place, offset, strict=True)]
        if all(0 <= s < n for s, n in zip(source, example.shape[1:], strict=True)):
            result[(slice(None), *place.tolist())] = example[(slice(None), *source)]
    return result


def test_flip_mirrors_about_the_share_asked_for() -> None:
    batch = torch.randn(1000, 1, 2, 3)
    mirrored = flip(0.3)(batch, generator())
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(mirrored, batch, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(mirrored, batch, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 250 < sum(flipped) < 350


def test_noise_has_the_deviation_asked_for() -> None:
    batch = torch.zeros(100, 1000)
    assert noise(3.0)(batch, generator()).std() == pytest.approx(3.0, rel=0.02)


def test_steps_follow_each_other() -> None:
    double = compose(lambda batch, _: batch + 1, lambda batch, _: batch * 2)
    assert double(torch.zeros(1), generator()).item() == 2


def test_the_generator_alone_decides() -> None:
    augment = compose(shift(1), flip(), noise(0.1))
    batch = torch.randn(8, 1, 4, 4)
    torch.manual_seed(1)
    first = augment(batch, generator())
    torch.manual_seed(2)
    assert torch.equal(first, augment(batch, generator()))


@pytest.mark.parametrize("wrong", [lambda: shift(0), lambda: flip(0), lambda: flip(1.5), lambda: noise(0)])
def test_what_does_nothing_is_refused(wrong: object) -> None:
    with pytest.raises(TaskError) as caught:
        wrong()
    assert caught.value.do
