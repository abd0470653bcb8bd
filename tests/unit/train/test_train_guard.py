"""A teacher that stands guard speaks only where it is right about the label."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgehone.train.loop import Teacher, imitation_loss
from edgehone.train.losses import distillation_loss

OUTPUT = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.5], [1.0, 1.5, 0.0], [0.2, 0.1, 0.3]])
TARGET = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0]])  # says 0, 2, 1, 1


def test_only_right_answers_count_and_each_as_much_as_before() -> None:
    y = torch.tensor([0, 1, 1, 2])
    guard = Teacher(nn.Identity(), "classification", only_right=True)
    right = torch.tensor([True, False, True, False])
    expected = distillation_loss("classification", OUTPUT[right], TARGET[right], guard.temperature) / 2
    assert imitation_loss(guard, OUTPUT, TARGET, y) == pytest.approx(float(expected))


def test_where_it_is_wrong_everywhere_nothing_is_learnt_from_it() -> None:
    output = OUTPUT.clone().requires_grad_()
    loss = imitation_loss(
        Teacher(nn.Identity(), "classification", only_right=True), output, TARGET, torch.tensor([1, 0, 0, 0])
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0 and output.grad is not None and not output.grad.any()


@pytest.mark.parametrize(("kind", "only_right"), [("classification", False), ("regression", True)])
def test_elsewhere_all_answers_count(kind: str, only_right: bool) -> None:
    teacher = Teacher(nn.Identity(), kind, only_right=only_right)
    expected = distillation_loss(kind, OUTPUT, TARGET, teacher.temperature)
    assert imitation_loss(teacher, OUTPUT, TARGET, torch.tensor([1, 0, 0, 0])) == pytest.approx(float(expected))
