"""Every technique keeps the contract; one that breaks a rule is caught by that rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
import torch

from edgehone.graph.ir import Graph
from edgehone.recipe import Step
from edgehone.techniques import TECHNIQUES, Context, Result, Technique
from edgehone.testing import techniques
from edgehone.testing.techniques import TechniqueContract, reference_graph

torch.set_num_threads(1)


class TestTechniques(TechniqueContract):
    @pytest.fixture(params=TECHNIQUES.names())
    def technique(self, request: pytest.FixtureRequest) -> Technique:
        return TECHNIQUES.get(request.param)


def test_the_techniques_of_the_study_are_there() -> None:
    assert {"prune", "distil", "quantize"} <= set(TECHNIQUES.names())


@dataclass(frozen=True)
class Scale:
    """Of the weights."""

    factor: float = 0.5


class Broken:
    """Scales all parameters; `change` is where it goes wrong."""

    Settings = Scale
    identity = Scale(1.0)

    def __init__(self, change: Callable[[Graph, Scale], Graph], label: str = "scale-{0:g}") -> None:
        self.change, self.label = change, label

    def supports(self, graph: Graph) -> tuple[str, ...]:
        return ("it never can",)

    def step(self, settings: Scale) -> Step:
        return Step("prune", asdict(settings), self.label.format(settings.factor))

    def apply(self, graph: Graph, settings: Scale, context: Context) -> Result:
        return Result(self.change(graph, settings))


def scaled(graph: Graph, settings: Scale) -> Graph:
    return replace(graph, params={k: v * np.float32(settings.factor) for k, v in graph.params.items()})


def in_place(graph: Graph, settings: Scale) -> Graph:
    for array in graph.params.values():
        array *= np.float32(settings.factor)
    return graph


DRAW = np.random.default_rng(0)


def by_chance(graph: Graph, settings: Scale) -> Graph:
    return scaled(graph, Scale(DRAW.uniform()))


def shortened(graph: Graph, settings: Scale) -> Graph:
    last = graph.nodes[-1]
    return graph.with_nodes(graph.nodes[:-1], output=last.inputs[0])


def endless(graph: Graph, settings: Scale) -> Graph:
    return scaled(graph, Scale(np.inf))


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        (Broken(in_place), "test_the_graph_is_left_alone", "has changed"),
        (Broken(by_chance), "test_the_same_seed_gives_the_same_result", "different graphs"),
        (Broken(shortened), "test_input_and_output_keep_their_shapes", "is now"),
        (Broken(endless), "test_the_result_answers_numbers", "NaN"),
        (Broken(lambda g, s: scaled(g, Scale())), "test_no_strength_changes_nothing", "must change nothing"),
        (Broken(scaled), "test_common_networks_are_supported", "must be supported"),
        (Broken(scaled), "test_it_says_in_words_what_it_cannot_do", "worked all the same"),
        (Broken(scaled), "test_its_step_decodes", "there is no technique"),
        (Broken(scaled, "scale"), "test_its_label_tells_strengths_apart", "one label"),
        (Broken(scaled), "test_cites_its_source", "no paper"),
    ],
)
def test_a_broken_technique_is_caught(broken: Broken, rule: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = copy.deepcopy(reference_graph("pictures"))
    monkeypatch.setattr(techniques, "reference_graph", lambda _: graph)
    method = getattr(TechniqueContract(), rule)
    given = {"technique": broken, "settings": Scale(), "kind": "pictures"}
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    with pytest.raises(pytest.fail.Exception, match=said):
        method(**{name: given[name] for name in wanted})
