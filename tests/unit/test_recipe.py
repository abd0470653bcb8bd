"""A recipe is read strictly, its name decodes, and an order that makes no sense is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edgehone.errors import RecipeError
from edgehone.recipe import Step, check_order, name, parse_name, read_recipe, settings_of
from edgehone.search.recipes import apply_recipe
from edgehone.task import Training
from edgehone.techniques import TECHNIQUES, Context, Result
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil
from edgehone.techniques.dropout import DropoutSettings
from edgehone.techniques.dropout import technique as dropout
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.quantize import QuantizeSettings
from edgehone.techniques.quantize import technique as quantize
from edgehone.techniques.reduce_inputs import ReduceInputsSettings
from edgehone.techniques.reduce_inputs import technique as reduce_inputs
from edgehone.techniques.regularise import RegulariseSettings
from edgehone.techniques.regularise import technique as regularise
from edgehone.techniques.shorten import ShortenSettings
from edgehone.techniques.shorten import technique as shorten
from edgehone.techniques.tune import TuneSettings
from edgehone.techniques.tune import technique as tune
from edgehone.testing.expect import identical
from edgehone.testing.techniques import reference_context, reference_graph

SMALL = """
[[step]]
technique = "prune"
keep = 0.4

[[step]]
technique = "distil"
weight = 1
training = { epochs = 2, optimizer = "adamw" }

[[step]]
technique = "quantize"
"""


def test_the_name_decodes() -> None:
    steps = (
        prune.step(PruneSettings(0.4, "taylor", "uniform")),
        distil.step(DistilSettings(Training(epochs=2.5))),
        quantize.step(QuantizeSettings(qat_epochs=1)),
    )
    assert name(steps) == "prune-taylor-uniform-40 + distil-2.5 + int8-qat-1"
    assert parse_name(name(steps), TECHNIQUES) == steps
    assert name([quantize.step(QuantizeSettings())]) == "int8"
    assert name(()) == ""
    assert parse_name("", TECHNIQUES) == ()


@pytest.mark.parametrize(
    ("technique", "settings"),
    [
        (prune, PruneSettings(0.25, "geometric-median", "uniform")),
        (shorten, ShortenSettings(0.4)),
        (distil, DistilSettings(Training(epochs=1e-05))),
        (distil, DistilSettings(Training(epochs=0.5), attention=1e6)),
        (regularise, RegulariseSettings("l1", 1e-5, training=Training(epochs=2))),
        (regularise, RegulariseSettings("growing", 0.1, 0.3)),
        (dropout, DropoutSettings((0.25, 0.375, 0.5), 2)),
        (dropout, DropoutSettings(())),
        (reduce_inputs, ReduceInputsSettings("rfe", 0.3)),
        (tune, TuneSettings(40, max_cost=0.6, sampler="nsga2")),
        (quantize, QuantizeSettings(qat_epochs=0.5)),
    ],
)
def test_settings_come_back_from_their_label(technique: Any, settings: Any) -> None:
    step = technique.step(settings)
    assert parse_name(step.label, TECHNIQUES) == (step,)
    assert settings_of(step, TECHNIQUES) == settings


@pytest.mark.parametrize("known", TECHNIQUES.names())
def test_a_label_belongs_to_one_technique(known: str) -> None:
    label = TECHNIQUES.get(known).step(TECHNIQUES.get(known).Settings()).label
    assert [s.technique for s in parse_name(label, TECHNIQUES)] == [known]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("widen-3", "no technique reads the label 'widen-3'"),
        ("prune-l2-global-40+int8", "no technique reads the label"),
        ("prune-l2-global-400", "keep is 4"),
        ("distil-0", "epochs is 0"),
        ("distil-1.2.3", "epochs is 1.2.3"),
        ("prune-l2-global-040", "no technique reads the label"),
    ],
)
def test_a_name_that_does_not_decode_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace("+", r"\+")):
        parse_name(text, TECHNIQUES)


def test_a_step_without_a_label_is_called_like_its_technique() -> None:
    assert name([Step("sparsify"), Step("quantize", label="int8")]) == "sparsify + int8"


def test_a_step_is_a_json_object() -> None:
    step = prune.step(PruneSettings(0.25))
    assert json.loads(json.dumps(step.to_json())) == {
        "technique": "prune", "keep": 0.25, "criterion": "l2", "allocation": "global", "step": 8, "minimum": 8,
    }  # fmt: skip


def test_a_recipe_is_read_with_its_defaults() -> None:
    steps = read_recipe(SMALL, TECHNIQUES)
    assert name(steps) == "prune-l2-global-40 + distil-2 + int8"
    assert settings_of(steps[1], TECHNIQUES) == DistilSettings(Training(epochs=2, optimizer="adamw"), weight=1.0)
    dropped = read_recipe('[[step]]\ntechnique = "dropout"\nrates = [0.1, 0]\n', TECHNIQUES)
    assert settings_of(dropped[0], TECHNIQUES) == DropoutSettings((0.1, 0.0))


@pytest.mark.parametrize(
    ("text", "where", "what", "do"),
    [
        ("[[step]\n", "r.toml", "this is not TOML: .*line 1", "recipe.md"),
        ("", "r.toml", "there is no step", r"\[\[step\]\]"),
        ('step = "prune"', "r.toml", "there is no step", ""),
        ("keep = 1\n", "r.toml", "no field 'keep'", ""),
        ("[[step]]\nkeep = 1\n", "r.toml, line 1, step 1", "names no technique", ""),
        ('[[step]]\n\ntechnique = "prun"\n', "line 3, step 1", "no technique called 'prun'", "mean 'prune'.*quantize"),
        (SMALL + '[[step]]\ntechnique = "distil"\n\nwait = 1\n', "line 16, step 4", "called 'wait'", "mean 'weight'"),
        ('[[step]]\ntechnique = "prune"\nkeep = "half"\n', "line 3", "keep is 'half'", "a number"),
        ('[[step]]\ntechnique = "prune"\nkeep = true\n', "line 3", "keep is True", "a number"),
        ('[[step]]\ntechnique = "prune"\nstep = 8.0\n', "line 3", "step is 8.0", "a whole number"),
        ('[[step]]\ntechnique = "prune"\nkeep = 1.5\n', "line 3", "keep is 1.5", "at most 1"),
        ('[[step]]\ntechnique = "prune"\nallocation = "glob"\n', "line 3", "is 'glob'", "mean 'global'"),
        ('[[step]]\ntechnique = "distil"\ntraining = 3\n', "line 3", "training is 3", "a table"),
        ('[[step]]\ntechnique = "distil"\n[step.training]\nepoch = 1\n', "line 4", "'training.epoch'", "mean 'epochs'"),
        ('[[step]]\ntechnique = "distil"\ntraining.epochs = 0\n', "line 3, step 1", "epochs is 0", "above 0"),
        ('[[step]]\ntechnique = "distil"\ntraining.dropout = "no"\n', "line 3", "dropout is 'no'", "a number"),
        ('[[step]]\ntechnique = "dropout"\nrates = 0.5\n', "line 3", "rates is 0.5", "a list"),
        ('step = [{ technique = "prune", keep = 2 }]', "r.toml, step 1", "keep is 2", "at most 1"),
    ],
)
def test_wrong_recipes_are_refused_with_their_place(text: str, where: str, what: str, do: str) -> None:
    with pytest.raises(RecipeError, match=what) as error:
        read_recipe(text, TECHNIQUES, "r.toml")
    assert where in error.value.where
    assert re.search(do, error.value.do)


@pytest.mark.parametrize(
    ("order", "said", "why"),
    [
        ("quantize prune", "step 2: 'prune' comes after 'quantize'", "integers"),
        ("quantize quantize", "step 2: 'quantize' comes after 'quantize'", "integers"),
        ("distil prune quantize", "step 1: 'distil' comes before 'prune'", "after the cut"),
        ("prune reduce-inputs", "step 2: 'reduce-inputs' comes after 'prune'", "inputs first"),
        ("prune decompose distil", "step 2: 'decompose' comes after 'prune'", "decompose first"),
        ("sparsify prune", "step 2: 'prune' comes after 'sparsify'", "would be lost"),
        ("cluster prune distil", "step 2: 'prune' comes after 'cluster'", "would be lost"),
        ("prune sparsify distil", "step 3: 'distil' comes after 'sparsify'", "training moves the weights"),
    ],
)
def test_wrong_orders_are_refused_with_the_reason(order: str, said: str, why: str) -> None:
    with pytest.raises(RecipeError) as error:
        check_order([Step(technique) for technique in order.split()], TECHNIQUES)
    assert said in str(error.value)
    assert why in error.value.do


@pytest.mark.parametrize(
    "order",
    ["", "distil", "quantize", "reduce-inputs regularise shorten prune distil dropout sparsify quantize",
     "decompose prune distil prune distil quantize", "prune quantize"],
)  # fmt: skip
def test_orders_that_make_sense_pass(order: str) -> None:
    check_order([Step(technique) for technique in order.split()], TECHNIQUES)


def context_of(kind: str, folder: Path) -> Context:
    return replace(reference_context(kind), checkpoint=folder / "recipe.npz")


def test_steps_follow_each_other_and_the_curve_counts_on(tmp_path: Path) -> None:
    recipe = read_recipe(SMALL + "qat_epochs = 1\n", TECHNIQUES)
    told: list[tuple[int, float]] = []
    result = apply_recipe(
        reference_graph("pictures"), recipe, reference_context("pictures"), lambda n, share, _: told.append((n, share))
    )
    assert result.quantized is not None
    assert [point.epoch for point in result.curve] == [1, 2, 3]
    assert {number for number, share in told if share == 1.0} == {0, 1, 2}
    alone = prune.apply(reference_graph("pictures"), PruneSettings(0.4), reference_context("pictures")).graph
    assert [n.output for n in result.graph.nodes] == [n.output for n in alone.nodes]


def test_what_is_finished_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, recipe, context = reference_graph("windows"), read_recipe(SMALL, TECHNIQUES), context_of("windows", tmp_path)
    whole = apply_recipe(graph, recipe, reference_context("windows"))

    def stopped(*_: Any) -> Result:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(quantize), "apply", stopped)
        with pytest.raises(KeyboardInterrupt):
            apply_recipe(graph, recipe, context)
    with monkeypatch.context() as patch:  # the first two steps are there: only the last one is asked
        patch.setattr(type(prune), "apply", stopped)
        patch.setattr(type(distil), "apply", stopped)
        resumed = apply_recipe(graph, recipe, context)
        assert identical(resumed.graph, whole.graph)
        assert identical(resumed.quantized, whole.quantized)
        assert [p.epoch for p in resumed.curve] == [p.epoch for p in whole.curve] == [1, 2]
        with pytest.raises(KeyboardInterrupt):  # another seed is another run
            apply_recipe(graph, recipe, replace(context, seed=9))


@pytest.mark.parametrize("wrong", [lambda: [Step("prun")], lambda: [Step("quantize"), Step("prune")]])
def test_a_wrong_recipe_is_refused_before_anything_is_done(wrong: Callable[[], list[Step]], tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        apply_recipe(reference_graph("rows"), wrong(), context_of("rows", tmp_path))
    assert list(tmp_path.iterdir()) == []


ODD = ('"x"', "-1", "0", "1e308", "nan", "[[1]]", "2026-01-01")


@pytest.mark.parametrize("technique", TECHNIQUES.names())
def test_odd_values_are_taken_or_refused_in_words(technique: str) -> None:
    refused = 0
    for setting in [item.name for item in fields(TECHNIQUES.get(technique).Settings)]:
        for value in ODD:
            try:
                steps = read_recipe(f'[[step]]\ntechnique = "{technique}"\n{setting} = {value}\n', TECHNIQUES, "r.toml")
            except RecipeError as error:
                refused += 1
                assert setting in error.what or error.where.startswith("r.toml, line")
            else:
                assert steps[0].label == name(steps)
    assert refused > 0
