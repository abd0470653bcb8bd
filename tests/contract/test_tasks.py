"""Every built-in task opens, is checked clean, and can be traced; a task whose files lie elsewhere is left out here."""

from __future__ import annotations

import shutil
import urllib.request

import pytest
import torch

from edgehone.data import load_task, prepare
from edgehone.data.load import BUILTIN
from edgehone.errors import DataError
from edgehone.graph.groups import channel_groups
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.task import Task
from edgehone.train.check import check_task

torch.set_num_threads(1)

FETCHED = {"fashion-mnist"}  # tasks whose data is not in any package that is always installed


@pytest.fixture(scope="module", params=BUILTIN.names())
def task(request: pytest.FixtureRequest) -> Task:
    """A built-in task, without asking the network for anything."""

    def offline(*_: object, **__: object) -> None:
        raise OSError("tests fetch nothing")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urllib.request, "urlopen", offline)
        patch.setattr(shutil, "which", lambda *_, **__: None)  # no apt-get either
        try:
            return load_task(request.param)
        except DataError as error:
            if request.param not in FETCHED:
                raise
            pytest.skip(f"{request.param}: {error.what}")


def test_it_is_called_like_its_file(task: Task, request: pytest.FixtureRequest) -> None:
    assert task.name == request.node.callspec.params["task"]


def test_it_prepares_the_same_way_twice(task: Task) -> None:
    one, two = prepare(task, seed=0), prepare(task, seed=0)
    assert len(one.train) > len(one.validation) > 0
    assert len(one.test) > 0
    for a, b in zip(one.validation.arrays(), two.validation.arrays(), strict=True):
        assert (a == b).all()
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_is_checked_clean(task: Task) -> None:
    findings = check_task(task)
    assert any(finding.what.startswith("traced") for finding in findings)
    assert [finding for finding in findings if finding.level != "ok"] == []


def test_it_can_be_traced_and_cut(task: Task) -> None:
    prepared = prepare(task)
    x, _ = next(prepared.train.batches(4))
    graph = trace(prepared.end_to_end(), x)
    assert graph.input_shape == prepared.input_shape
    assert channel_groups(graph)
    network = prepared.end_to_end().eval()
    with torch.no_grad():
        torch.testing.assert_close(GraphNetwork(graph).eval()(x), network(x), rtol=1e-4, atol=1e-5)
