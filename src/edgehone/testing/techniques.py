"""The contract of a technique, as tests to inherit.

    class TestMyTechnique(TechniqueContract):
        @pytest.fixture
        def technique(self):
            return my_technique

        @pytest.fixture
        def settings(self):                     # only where the defaults take long or do nothing
            return MySettings(strength=0.5)

Asked on a small task of every kind, each with a network of another shape. The technique's own attribute `identity`
says with which settings it changes nothing; where it is None, that question is left out. What a technique is good for,
and that it is good at it, is for its own tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgehone.data.prepare import prepare
from edgehone.errors import EdgehoneError
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.recipe import name as recipe_name
from edgehone.record import from_json, to_json
from edgehone.task import Kind, Task
from edgehone.techniques import TECHNIQUES, Context, Result, Technique
from edgehone.testing.expect import cites_a_source, expect, identical, untouched
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.networks import ResNet, autoencoder, conv1d_net, mlp, settle

_EXAMPLES = 96
_TASKS: dict[str, tuple[Kind, tuple[int, ...], Callable[[], nn.Module]]] = {
    "pictures": ("classification", (3, 8, 8), lambda: ResNet(1, widths=(16, 24), classes=3)),
    "windows": ("classification", (6, 32), lambda: conv1d_net(classes=3)),
    "rows": ("regression", (20,), mlp),
    "anomalies": ("anomaly", (1, 8, 8), autoencoder),
}


@cache
def reference_context(kind: str) -> Context:
    """A small task with random data: "pictures", "windows", "rows" or "anomalies"."""
    task_kind, shape, build = _TASKS[kind]
    draw = np.random.default_rng(5)
    x = draw.uniform(0, 1, (_EXAMPLES, *shape)).astype(np.float32)
    ids = np.arange(_EXAMPLES) % 3
    targets = draw.uniform(0, 1, (_EXAMPLES, 4)).astype(np.float32)
    y = {"classification": ids, "regression": targets, "anomaly": ids % 2}[task_kind]
    train = (x, np.zeros_like(ids)) if task_kind == "anomaly" else (x, y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = settle(build(), (1, *shape))
    return Context(prepare(Task(kind, network, train=train, validation=(x, y), test=(x, y), kind=task_kind)), seed=3)


@cache
def reference_graph(kind: str) -> Graph:
    """The training graph of a reference task."""
    prepared = reference_context(kind).prepared
    return trace(prepared.end_to_end(), torch.zeros((2, *prepared.input_shape[1:])))


def unweighted_graph() -> Graph:
    """A network that has nothing to cut and nothing to train."""
    build = GraphBuilder((1, 3, 8, 8))
    return build.graph(build.mean(build.relu(build.input)))


class TechniqueContract:
    """What every technique keeps."""

    @pytest.fixture
    def technique(self) -> Technique:
        """The technique under test."""
        raise NotImplementedError("define a fixture called technique")

    @pytest.fixture
    def settings(self, technique: Technique) -> Any:
        """Settings that do something, quickly."""
        return technique.Settings()

    @pytest.fixture(params=_TASKS)
    def kind(self, request: pytest.FixtureRequest, technique: Technique) -> str:
        """The reference task to work on; one whose network the technique says it cannot change is left out."""
        kind = str(request.param)
        for reason in technique.supports(reference_graph(kind)):
            pytest.skip(f"{kind}: {reason}")
        return kind

    def test_cites_its_source(self, technique: Technique) -> None:
        expect(cites_a_source(technique), "its file's docstring names no paper, like (Li et al. 2017, section 3)")

    def test_settings_are_plain_data(self, technique: Technique, settings: Any) -> None:
        kind = technique.Settings
        expect(is_dataclass(kind), f"{kind.__name__} is no dataclass")
        with pytest.raises(FrozenInstanceError):
            setattr(settings, fields(kind)[0].name, None)
        read = from_json(kind, json.loads(json.dumps(to_json(settings))))
        expect(read == settings, f"{settings} comes back from JSON as {read}")

    def test_its_step_decodes(self, technique: Technique, settings: Any) -> None:
        step = technique.step(settings)
        expect(identical(TECHNIQUES.get(step.technique), technique), f"there is no technique called {step.technique!r}")
        told = json.loads(json.dumps(step.to_json()))
        expect(told.pop("technique") == step.technique, "a setting must not be called technique")
        expect(from_json(technique.Settings, told) == settings, f"the step says {told}, not {settings}")
        label = step.label
        expect(bool(label) and " " not in label, f"the label {label!r} must be one word: recipes join them with ' + '")
        expect(recipe_name([step]) == label, f"the recipe is called {recipe_name([step])!r}")

    def test_its_label_tells_strengths_apart(self, technique: Technique, settings: Any) -> None:
        identity = _identity(technique)
        expect(technique.step(identity).label != technique.step(settings).label, "two strengths have one label")

    def test_the_graph_is_left_alone(self, technique: Technique, settings: Any, kind: str) -> None:
        with untouched(reference_graph(kind)):
            technique.apply(reference_graph(kind), settings, reference_context(kind))

    def test_the_same_seed_gives_the_same_result(self, technique: Technique, settings: Any, kind: str) -> None:
        one, two = (technique.apply(reference_graph(kind), settings, reference_context(kind)) for _ in range(2))
        expect(identical(one.graph, two.graph), "two runs with one seed give different graphs")
        expect(identical(one.quantized, two.quantized), "two runs with one seed give different integers")

    def test_input_and_output_keep_their_shapes(self, technique: Technique, settings: Any, kind: str) -> None:
        graph = reference_graph(kind)
        result = technique.apply(graph, settings, reference_context(kind))
        for found in _graphs(result):
            shapes = found.check().input_shape, found.output_shape
            expect(shapes == (graph.input_shape, graph.output_shape), f"the network is now {shapes[0]} → {shapes[1]}")

    def test_the_result_answers_numbers(self, technique: Technique, settings: Any, kind: str) -> None:
        context = reference_context(kind)
        x, _ = next(context.prepared.validation.batches(8))
        for found in _graphs(technique.apply(reference_graph(kind), settings, context)):
            with torch.no_grad():
                y = GraphNetwork(found).eval()(x)
            expect(bool(torch.isfinite(y).all()), "the network answers NaN or infinity")

    def test_no_strength_changes_nothing(self, technique: Technique, kind: str) -> None:
        identity = _identity(technique)
        graph = reference_graph(kind)
        result = technique.apply(graph, identity, reference_context(kind))
        expect(identical(result.graph, graph), f"{identity} must change nothing, but the graph is another one")

    def test_common_networks_are_supported(self, technique: Technique) -> None:
        reasons = {kind: tuple(technique.supports(reference_graph(kind))) for kind in _TASKS}
        expect(not all(reasons.values()), f"a common network must be supported, not all refused: {reasons}")

    def test_it_says_in_words_what_it_cannot_do(self, technique: Technique, settings: Any) -> None:
        graph, context = unweighted_graph(), reference_context("pictures")
        reasons = technique.supports(graph)
        expect(all(isinstance(reason, str) and " " in reason for reason in reasons), f"no words: {reasons}")
        if not reasons:
            technique.apply(graph, settings, context)
            return
        try:
            technique.apply(graph, settings, context)
        except EdgehoneError as error:
            expect(reasons[0] in error.what, f"it said {reasons[0]!r} before and {error.what!r} after")
        else:
            expect(False, f"it worked all the same, although {reasons[0]}")


def _identity(technique: Technique) -> Any:
    if technique.identity is None:
        pytest.skip("it names no settings that change nothing")
    return technique.identity


def _graphs(result: Result) -> list[Graph]:
    return [result.graph] if result.quantized is None else [result.graph, result.quantized.graph]
