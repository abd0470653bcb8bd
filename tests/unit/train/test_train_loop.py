"""The training loop: it learns, it repeats itself, it resumes as if it had never stopped, it refuses NaN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgehone.data.examples import Examples
from edgehone.errors import DataError
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Training
from edgehone.train.loop import Run, Teacher, fit, learning_rate
from edgehone.train.losses import distillation_loss


def cross_entropy(output: Tensor, target: Tensor, _: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target)


def two_moons(n: int = 512) -> Examples:
    """Two classes a line cannot part."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand((n, 2), generator=generator) * 2 - 1
    return Examples(x, ((x[:, 0] * x[:, 1]) > 0).long())


def network() -> GraphNetwork:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))
    return GraphNetwork(trace(net.eval(), torch.rand(4, 2)))


def run(**changes: object) -> Run:
    training = Training(epochs=12, batch_size=32, learning_rate=0.1)
    return replace(Run(two_moons(), training, cross_entropy, seed=5), **changes)


def parameters(net: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in net.state_dict().values()])


def test_it_learns_and_its_curve_has_a_point_per_epoch() -> None:
    net, data = network(), two_moons()
    x = torch.from_numpy(data.arrays()[0])
    accuracy = lambda n: float((n(x).argmax(1) == data.y).float().mean())  # noqa: E731
    curve = fit(net, run(validate=accuracy))
    assert [point.epoch for point in curve] == list(range(1, 13))
    assert curve[-1].loss < 0.7 * curve[0].loss
    assert curve[-1].metric is not None and curve[-1].metric > 0.9
    assert not net.training


def test_the_same_seed_gives_the_same_network_and_another_another() -> None:
    nets = [network() for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        fit(net, run(seed=seed, training=Training(epochs=2, batch_size=32)))
    assert torch.equal(parameters(nets[0]), parameters(nets[1]))
    assert not torch.equal(parameters(nets[0]), parameters(nets[2]))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_stopped_run_resumes_to_the_same_network(tmp_path: Path, optimizer: str) -> None:
    training = Training(epochs=3, batch_size=32, learning_rate=0.05, optimizer=optimizer)
    whole, broken = network(), network()
    curve = fit(whole, run(training=training))

    def stop(step: int, total: int, loss: float) -> None:
        if step == 20:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(broken, run(training=training, report=stop, checkpoint=checkpoint))
    assert checkpoint.exists()
    fresh = network()
    resumed = fit(fresh, run(training=training, checkpoint=checkpoint))
    assert torch.equal(parameters(fresh), parameters(whole))
    assert [point.epoch for point in resumed] == [point.epoch for point in curve]
    assert not checkpoint.exists()


def test_a_damaged_checkpoint_starts_over(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.npz"
    checkpoint.write_bytes(b"PK\x03\x04 not really")
    net, other = network(), network()
    fit(net, run(training=Training(epochs=1, batch_size=32), checkpoint=checkpoint))
    fit(other, run(training=Training(epochs=1, batch_size=32)))
    assert torch.equal(parameters(net), parameters(other))


def test_nan_in_the_loss_is_refused_with_what_to_do() -> None:
    loss = lambda output, target, x: cross_entropy(output, target, x) * float("nan")  # noqa: E731
    with pytest.raises(DataError, match=r"loss is nan.*\n.*edgehone task check"):
        fit(network(), run(loss=loss))


def test_l1_makes_weights_smaller() -> None:
    plain, sparse = network(), network()
    fit(plain, run(training=Training(epochs=3, batch_size=32)))
    fit(sparse, run(training=Training(epochs=3, batch_size=32, l1=1e-2)))
    size = lambda net: float(sum(p.detach().abs().sum() for p in net.parameters() if p.dim() > 1))  # noqa: E731
    assert size(sparse) < 0.9 * size(plain)


def test_a_teacher_is_imitated() -> None:
    teacher = network()
    fit(teacher, run())
    data = two_moons()
    blind = replace(run(), data=Examples(torch.from_numpy(data.arrays()[0]), torch.zeros(len(data), dtype=torch.int64)))
    student = network()
    fit(student, replace(blind, teacher=Teacher(teacher, "classification", weight=1.0)))
    x = torch.from_numpy(data.arrays()[0])
    agreement = (student(x).argmax(1) == teacher(x).argmax(1)).float().mean()
    assert agreement > 0.9  # though every label said class 0


def test_distillation_loss_is_zero_for_equal_answers_and_keeps_its_gradient_scale() -> None:
    logits = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    assert float(distillation_loss("classification", logits, logits, 4.0)) == pytest.approx(0, abs=1e-6)
    sizes = []
    for temperature in (4.0, 8.0):
        student = (logits + 0.1 * logits.roll(1, 0)).requires_grad_()
        distillation_loss("classification", student, logits, temperature).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.35)


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [learning_rate(1.0, step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(1 / 20) and max(rates) == 1.0 and rates[-1] < 1e-3
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)


def test_a_penalty_is_part_of_the_loss_and_hears_how_far_training_is() -> None:
    shares: list[float] = []

    def shrink(net: nn.Module, share: float) -> Tensor:
        shares.append(share)
        return 0.05 * torch.stack([p.square().sum() for p in net.parameters() if p.dim() > 1]).sum()

    plain, penalised = network(), network()
    fit(plain, run())
    fit(penalised, run(penalty=shrink))
    norm = lambda net: sum(float(p.detach().square().sum()) for p in net.parameters() if p.dim() > 1)  # noqa: E731
    assert norm(penalised) < 0.5 * norm(plain)
    assert shares[0] == 0 and shares == sorted(shares) and 0.9 < shares[-1] < 1


def test_what_is_done_after_each_step_lasts() -> None:
    def mask(net: nn.Module, share: float) -> None:
        assert 0 < share <= 1
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.dim() > 1:
                    parameter[0] = 0

    net = network()
    fit(net, run(after_step=mask))
    assert all(not p[0].any() for p in net.parameters() if p.dim() > 1)
