"""A teacher is asked once for each batch; what is kept teaches as well as the teacher did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgehone.data.augment import noise
from edgehone.data.examples import Examples
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Training
from edgehone.train.answers import Answers
from edgehone.train.loop import Run, Teacher, fit

torch.set_num_threads(1)


class Asked(nn.Module):
    """A teacher that counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.times = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.times += 1
        answer: Tensor = self.layer(x)
        return answer


def student() -> GraphNetwork:
    torch.manual_seed(2)
    return GraphNetwork(trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.rand(2, 4)))


def taught(teacher: Asked, answers: Answers | None, epochs: float = 2.0) -> Tensor:
    net = student()
    x = torch.rand((64, 4), generator=torch.Generator().manual_seed(3))
    run = Run(
        Examples(x, (x.sum(1) > 2).long()), Training(epochs=epochs, batch_size=16), lambda o, y, _: (
            nn.functional.cross_entropy(o, y)
        ), seed=4, augment=noise(0.1), teacher=Teacher(teacher, "classification", answers=answers),
    )  # fmt: skip
    fit(net, run)
    return torch.cat([p.flatten() for p in net.state_dict().values()])


def test_it_is_asked_once_and_the_result_is_the_same(tmp_path: Path) -> None:
    teacher = Asked()
    plain = taught(teacher, None)
    assert teacher.times == 8
    torch.testing.assert_close(taught(teacher, Answers(tmp_path, {"a": 1})), plain, rtol=0, atol=0)
    assert teacher.times == 16
    torch.testing.assert_close(taught(teacher, Answers(tmp_path, {"a": 1})), plain, rtol=0, atol=0)
    assert teacher.times == 16


def test_another_key_is_asked_anew(tmp_path: Path) -> None:
    teacher = Asked()
    taught(teacher, Answers(tmp_path, {"batch": 16}))
    taught(teacher, Answers(tmp_path, {"batch": 32}))
    assert teacher.times == 16


def test_an_epoch_that_was_not_finished_is_asked_for_again(tmp_path: Path) -> None:
    teacher = Asked()
    taught(teacher, Answers(tmp_path, {}), epochs=1.5)
    assert len(list(tmp_path.rglob("*.npy"))) == 1
    taught(teacher, Answers(tmp_path, {}))
    assert teacher.times == 6 + 4


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01", b"garbage"])
def test_a_damaged_file_is_asked_for_again(tmp_path: Path, content: bytes) -> None:
    teacher = Asked()
    plain = taught(teacher, Answers(tmp_path, {}))
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(content)
    torch.testing.assert_close(taught(teacher, Answers(tmp_path, {})), plain, rtol=0, atol=0)
    assert teacher.times == 16


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    teacher = Asked()
    taught(teacher, Answers(blocked, {}))
    assert teacher.times == 8
