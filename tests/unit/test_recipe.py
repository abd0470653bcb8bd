"""A recipe's name decodes, and its steps are data."""

from __future__ import annotations

import json

from edgehone.recipe import Step, name
from edgehone.task import Training
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil
from edgehone.techniques.prune import PruneSettings
from edgehone.techniques.prune import technique as prune
from edgehone.techniques.quantize import QuantizeSettings
from edgehone.techniques.quantize import technique as quantize


def test_the_name_decodes() -> None:
    steps = (
        prune.step(PruneSettings(0.4, "taylor", "uniform")),
        distil.step(DistilSettings(Training(epochs=2.5))),
        quantize.step(QuantizeSettings(qat_epochs=1)),
    )
    assert name(steps) == "prune-taylor-uniform-40 + distil-2.5 + int8-qat-1"
    assert name([quantize.step(QuantizeSettings())]) == "int8"
    assert name(()) == ""


def test_a_step_without_a_label_is_called_like_its_technique() -> None:
    assert name([Step("sparsify"), Step("quantize", label="int8")]) == "sparsify + int8"


def test_a_step_is_a_json_object() -> None:
    step = prune.step(PruneSettings(0.25))
    assert json.loads(json.dumps(step.to_json())) == {
        "technique": "prune", "keep": 0.25, "criterion": "l2", "allocation": "global", "step": 8, "minimum": 8,
    }  # fmt: skip
