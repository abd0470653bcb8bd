"""Tuning: it starts with the defaults, holds its constraint, stops, and goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgehone.errors import CutError, MissingExtraError, OutputFolderError, RecipeError
from edgehone.graph.cost import macs
from edgehone.graph.ir import Graph
from edgehone.task import Training
from edgehone.techniques import tune
from edgehone.techniques.tune import TuneSettings, technique
from edgehone.testing.expect import identical
from edgehone.testing.graphs import GraphBuilder
from edgehone.testing.techniques import reference_context, reference_graph

FAST = Training(epochs=1, batch_size=48, learning_rate=0.02)
GRAPH, CONTEXT = reference_graph("rows"), reference_context("rows")


def trials(notes: tuple[str, ...]) -> int:
    return int(notes[0].split()[0])


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_the_result_holds_the_constraint(sampler: Any) -> None:
    settings = TuneSettings(5, max_cost=0.6, sampler=sampler, least_keep=0.2, training=FAST)
    result = technique.apply(GRAPH, settings, CONTEXT)
    assert macs(result.graph) <= 0.6 * macs(GRAPH)
    assert trials(result.notes) == 5
    losses = [float(note.split()[4][:-1]) for note in result.notes[1:]]
    costs = [float(note.split()[5].replace(",", "")) for note in result.notes[1:]]
    assert costs == sorted(costs)
    assert losses == sorted(losses, reverse=True)  # a front: what costs more is better
    assert costs[-1] == macs(result.graph)  # the lowest loss that holds
    assert [n.attrs for n in result.graph.nodes if n.op == "dropout"] == [
        n.attrs for n in GRAPH.nodes if n.op == "dropout"
    ]


def test_the_first_trial_is_what_the_defaults_do() -> None:
    result = technique.apply(GRAPH, TuneSettings(1, training=FAST), CONTEXT)
    assert "trial 0 was kept: width 0.75, dropout 0, learning_rate 0.02, weight_decay 0.0005" in result.notes[0]


def test_latency_decides_where_it_can_be_measured() -> None:
    """A target on which only depth costs: the widest network that holds it may stay."""
    asked: list[Graph] = []

    def latency_us(graph: Graph) -> float:
        asked.append(graph)
        return float(len(graph.nodes))

    graph = reference_graph("pictures")
    context = replace(reference_context("pictures"), latency_us=latency_us)
    result = technique.apply(graph, TuneSettings(4, max_cost=1.0, training=FAST), context)
    assert len(asked) == 5
    assert result.notes[-1].endswith("µs")
    with pytest.raises(RecipeError, match="no trial of 1 costs at most 10%") as error:
        technique.apply(graph, TuneSettings(1, max_cost=0.1, training=FAST), context)
    assert "the cheapest cost" in error.value.do


def test_it_stops_when_the_front_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "split_loss", lambda *_: 1.0)
    context = replace(CONTEXT, latency_us=lambda _: 1.0)
    result = technique.apply(GRAPH, TuneSettings(20, patience=2, max_cost=1.0, training=FAST), context)
    assert trials(result.notes) == 3


def test_a_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = TuneSettings(4, max_cost=1.0, training=FAST, folder=str(tmp_path / "search"))
    whole = technique.apply(GRAPH, replace(settings, folder=""), CONTEXT)

    def stop(done: int, total: int, loss: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        technique.apply(GRAPH, settings, replace(CONTEXT, report=stop))
    told: list[int] = []
    resumed = technique.apply(GRAPH, settings, replace(CONTEXT, report=lambda done, *_: told.append(done)))
    assert told == [3, 4]
    assert resumed.notes == whole.notes
    assert identical(resumed.graph, whole.graph)
    again = technique.apply(GRAPH, settings, replace(CONTEXT, report=lambda done, *_: told.append(done)))
    assert told == [3, 4]
    assert identical(again.graph, whole.graph)
    with pytest.raises(OutputFolderError, match="the search of another network"):
        technique.apply(GRAPH, replace(settings, max_cost=0.5), CONTEXT)


def test_a_folder_that_cannot_hold_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tune.sqlite").write_text("no database " * 100)
    for name in ("file", "bad"):
        with pytest.raises(OutputFolderError, match="the search cannot be kept here"):
            technique.apply(GRAPH, TuneSettings(1, training=FAST, folder=str(tmp_path / name)), CONTEXT)


def test_without_width_or_depth_it_is_refused() -> None:
    build = GraphBuilder((1, 3, 8, 8))
    graph = build.graph(build.linear(build.mean(build.input), 3))
    with pytest.raises(CutError, match="neither a channel nor a branch can leave"):
        technique.apply(graph, TuneSettings(1), reference_context("pictures"))


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="tuning needs optuna"):
        technique.apply(GRAPH, TuneSettings(1), CONTEXT)


def test_optuna_is_kept_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.WARNING):
        technique.apply(GRAPH, TuneSettings(1, training=FAST), CONTEXT)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: TuneSettings(-1), "trials is -1"),
        (lambda: TuneSettings(patience=0), "patience 0"),
        (lambda: TuneSettings(max_cost=0.0), "max_cost is 0"),
        (lambda: TuneSettings(least_keep=1.5), "least_keep is 1.5"),
        (lambda: TuneSettings(sampler="grid"), "sampler is 'grid'"),
    ],
)
def test_bad_settings_are_refused(wrong: Callable[[], TuneSettings], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        wrong()
