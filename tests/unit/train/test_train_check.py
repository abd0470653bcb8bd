"""Every mistake the check of a task knows, each made on purpose, and none seen where there is none."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgehone.data.check import Finding
from edgehone.task import Task, Training
from edgehone.train.check import check_task

GENERATOR = np.random.default_rng(0)
FEATURES = 4
CENTRES = GENERATOR.normal(size=(3, FEATURES)) * 4
HERE = str(Path(__file__))


def blobs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of points that a linear layer tells apart."""
    y = np.arange(n) % 3
    return (CENTRES[y] + GENERATOR.normal(size=(n, FEATURES))).astype(np.float32), y


def trained() -> nn.Linear:
    """The best linear layer for three clouds of equal spread: distances to their centres."""
    network = nn.Linear(FEATURES, 3)
    with torch.no_grad():
        network.weight.copy_(torch.tensor(CENTRES))
        network.bias.copy_(torch.tensor(-0.5 * (CENTRES**2).sum(1)))
    return network.eval()


SPLITS = {"train": blobs(300), "validation": blobs(90), "test": blobs(90)}
TRAINED = trained()


class Wrapped(nn.Module):
    """A module around a good network, to make one mistake in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = trained()
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def check(network: object = TRAINED, **changes: object) -> list[Finding]:
    return check_task(Task(**{"name": "t", "network": network} | SPLITS | changes))


def only(findings: list[Finding], level: str) -> Finding:
    found = [finding for finding in findings if finding.level != "ok"]
    assert [finding.level for finding in found] == [level], found
    assert found[0].what and found[0].where and found[0].do
    return found[0]


def test_a_good_task_is_ready_and_left_alone() -> None:
    network = trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    findings = check(network)
    assert {finding.level for finding in findings} == {"ok"}
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert any("accuracy" in finding.what for finding in findings)
    assert any("traced into" in finding.what for finding in findings)


def test_a_network_to_be_trained_is_not_judged() -> None:
    findings = check(lambda: nn.Linear(FEATURES, 3), training=Training())
    assert {finding.level for finding in findings} == {"ok"}
    assert not any("accuracy" in finding.what for finding in findings)


# What prepare refuses becomes a finding -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"train": "nowhere.csv"}, "training split (nowhere.csv)", "no such file"),
        ({"train": (SPLITS["train"][0] * np.nan, SPLITS["train"][1])}, "training split", "NaN"),
        ({"test": (SPLITS["test"][0][:0], [])}, "test split", "no examples"),
        ({"train": (SPLITS["train"][0], np.zeros(300, int))}, "training split", "nothing to tell apart"),
        ({"labels": ("a", "b")}, "training split", "label 2, but the task names 2 classes"),
        ({"train": (SPLITS["train"][0].astype(str), SPLITS["train"][1])}, "training split", "not numbers"),
        ({"network": lambda: 1 / 0}, "task 't'", "ZeroDivisionError"),
    ],
)
def test_tasks_that_do_not_open(changes: dict[str, object], where: str, said: str) -> None:
    found = only(check(**changes), "error")
    assert said in found.what and found.where == where


# Train and eval mode ------------------------------------------------------------------------------------------------


def test_train_mode_is_told_once() -> None:
    found = only(check(trained().train()), "warning")
    assert "train mode" in found.what and "eval()" in found.do
    assert {f.level for f in check(trained().train(), training=Training())} == {"ok"}


def test_a_module_that_refuses_to_leave_train_mode() -> None:
    class Stubborn(nn.Dropout):
        def train(self, mode: bool = True) -> "Stubborn":
            return super().train(True)

    found = only(check(nn.Sequential(trained(), Stubborn()).eval()), "error")
    assert found.where == "1" and "stays in train mode" in found.what


def test_dropout_that_is_always_on() -> None:
    class Forgetful(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(self.inner(x), 0.5)

    found = only(check(Forgetful()), "error")
    assert "two runs in eval mode" in found.what and "training=self.training" in found.do


def test_batch_norm_without_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm1d(FEATURES, track_running_stats=False), trained()).eval()
    found = only(check(network), "error")
    assert "normalises by the batch at hand" in found.what and found.where == "0"


def test_a_reduction_over_the_batch() -> None:
    class Centred(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x - x.mean(0))

    assert "rest of its batch" in only(check(Centred()), "error").what


# What the network answers -------------------------------------------------------------------------------------------


def test_a_shape_that_does_not_fit_has_the_line() -> None:
    class Narrow(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x[:, :2])  # line 150

    line = Path(HERE).read_text().splitlines().index("            return self.inner(x[:, :2])  # line 150") + 1
    found = only(check(Narrow()), "error")
    assert "shape (8, 4)" in found.what and found.where == f"{HERE}, line {line}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda y: (y, y), "returns a tuple"),
        (lambda y: y.argmax(1), "int64"),
        (lambda y: y.mean(), "returns () float32 for 8 examples"),
        (lambda y: y / 0, "NaN or infinite"),
        (lambda y: y[:, :2], "answers (2,), but there are 3 classes"),
        (lambda y: y[:, :, None], "answers (3, 1), but there are 3 classes"),
    ],
)
def test_wrong_answers(answer: object, said: str) -> None:
    class Wrong(Wrapped):
        def forward(self, x: torch.Tensor) -> object:
            return answer(self.inner(x))

    assert said in only(check(Wrong()), "error").what


def test_more_classes_than_labels() -> None:
    network = nn.Linear(FEATURES, 5)
    with torch.no_grad():
        network.weight[:3], network.bias[:3], network.bias[3:] = TRAINED.weight, TRAINED.bias, -1e3
    assert "knows 5 classes" in only(check(network.eval()), "warning").what


def test_softmax_before_cross_entropy() -> None:
    found = only(check(nn.Sequential(trained(), nn.Softmax(1)).eval()), "warning")
    assert "softmax" in found.what and "logits" in found.do


# Weights and gradients ----------------------------------------------------------------------------------------------


def test_weights_of_another_type_or_broken() -> None:
    assert "2 parameters are float64, not float32, like weight" in only(check(trained().double()), "error").what
    broken = trained()
    with torch.no_grad():
        broken.bias[0] = math.nan
    assert "bias holds NaN" in only(check(broken), "error").what


def test_frozen_detached_and_unused_parameters() -> None:
    frozen = trained()
    frozen.weight.requires_grad_(False)
    assert "1 parameters are frozen, like weight" in only(check(frozen), "warning").what

    class Unused(Wrapped):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(2, 2)

    assert "reaches 2 parameters, like extra.weight" in only(check(Unused()), "warning").what

    class Detached(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).detach()

    assert "no gradient reaches the network" in only(check(Detached()), "error").what


def test_gradients_that_are_not_finite() -> None:
    class Root(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + (self.inner.bias * 0).sum().sqrt()

    assert "not finite" in only(check(Root()), "error").what


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda output, _: output.sum() * math.nan, "loss of a training batch is nan"),
        (lambda output, target: output - target, "raised RuntimeError"),
        (lambda output, _: output, "no single number"),
    ],
)
def test_losses_that_go_wrong(loss: object, said: str) -> None:
    found = only(check(loss=loss), "error")
    assert said in found.what and found.where == "loss"


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (lambda batch, _: batch[:, :2], "makes (8, 2) of a batch of (8, 4)"),
        (lambda batch, _: batch / 0, "not finite"),
        (lambda batch: batch, "TypeError"),
    ],
)
def test_augmentations_that_go_wrong(augment: object, said: str) -> None:
    found = only(check(augment=augment), "error")
    assert said in found.what and found.where == "augment"


# Tracing ------------------------------------------------------------------------------------------------------------


def test_control_flow_on_values_has_its_line() -> None:
    class Branching(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 1e9:
                x = x * 2
            return self.inner(x)

    line = Path(HERE).read_text().splitlines().index("            if x.sum() > 1e9:") + 1
    found = only(check(Branching()), "error")
    assert "by the values it computes" in found.what
    assert HERE in found.where and str(line) in found.where


def test_an_unknown_operator_is_named() -> None:
    class Exotic(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(torch.erfinv(torch.tanh(x * 1e-3)) * 1e3)

    assert "erfinv" in only(check(Exotic()), "error").what


# The metric ---------------------------------------------------------------------------------------------------------


def test_accuracy_at_chance() -> None:
    constant = trained()
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.copy_(torch.tensor([2.0, 0, 0]))
    found = only(check(constant), "warning")
    assert "accuracy 33.3%" in found.what and "preprocess" in found.do


def test_regression_and_its_metric() -> None:
    given = {name: (x, x @ np.ones((FEATURES, 2), np.float32)) for name, (x, _) in SPLITS.items()}
    network = nn.Linear(FEATURES, 2)
    with torch.no_grad():
        network.weight.fill_(1)
        network.bias.zero_()
    findings = check(network.eval(), kind="regression", **given)
    assert {f.level for f in findings} == {"ok"}
    assert any("R² 1 on 90 examples" in f.what for f in findings)
    with torch.no_grad():
        network.bias.fill_(100)
    assert "R²" in only(check(network, kind="regression", **given), "warning").what
    wrong = only(check(nn.Linear(FEATURES, 1).eval(), kind="regression", **given), "error")
    assert "answers (1,), the targets are (2,)" in wrong.what


def test_anomalies_and_their_metric() -> None:
    def mixed(n: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = GENERATOR.normal(size=(n, FEATURES)).astype(np.float32), np.arange(n) % 2
        x[y == 1, 2:] *= 10
        x[y == 0, 2:] *= 0.1
        return x, y

    normal, marks = mixed(200)
    given = {"kind": "anomaly", "train": normal[marks == 0], "validation": mixed(90), "test": mixed(90)}
    network = nn.Linear(FEATURES, FEATURES, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.diag(torch.tensor([1.0, 1, 0, 0])))
    findings = check(network.eval(), **given)
    assert {f.level for f in findings} == {"ok"}, findings
    assert any("AUC" in f.what for f in findings)
    with torch.no_grad():
        network.weight.copy_(torch.eye(FEATURES))
    assert "AUC" in only(check(network, **given), "warning").what
    assert "answers (3,)" in only(check(nn.Linear(FEATURES, 3).eval(), **given), "error").what
