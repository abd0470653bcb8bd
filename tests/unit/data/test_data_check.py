"""What the check of the splits finds, and what it leaves alone."""

import numpy as np
import pytest
from torch import nn

from edgehone.data import Scale, prepare
from edgehone.data.check import Finding, check_splits
from edgehone.task import Task

GENERATOR = np.random.default_rng(0)


def pair(n: int, *shape: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return GENERATOR.normal(size=(n, *shape)).astype(np.float32), np.arange(n) % classes


TRAIN, VALIDATION, TEST = pair(90, 4), pair(30, 4), pair(30, 4)


def check(**changes: object) -> list[Finding]:
    given = {"name": "t", "network": nn.Linear(4, 3), "train": TRAIN, "validation": VALIDATION, "test": TEST}
    return list(check_splits(prepare(Task(**given | changes))))


def only(findings: list[Finding]) -> Finding:
    found = [finding for finding in findings if finding.level != "ok"]
    assert len(found) == 1, found
    assert found[0].do and found[0].where
    return found[0]


def test_good_splits_are_fine() -> None:
    findings = check()
    assert {finding.level for finding in findings} == {"ok"}
    assert findings[0].where == "training split" and findings[0].what.startswith("90 examples of")
    assert findings[-1].what == "no example is in two splits"


def test_empty_classes() -> None:
    found = only(check(labels=("a", "b", "c"), validation=(VALIDATION[0], VALIDATION[1] % 2)))
    assert (found.level, found.where) == ("warning", "validation split")
    assert found.what == "no example of 'c'"
    found = check(labels=("a", "b", "c", "d", "e", "f", "g"))
    assert [f.what for f in found if f.level != "ok"] == ["no example of 'd', 'e', 'f' and 1 more"] * 3


def test_small_and_unequal_classes() -> None:
    y = np.where(np.arange(90) < 4, 1, 0)
    y[-4:] = 2
    findings = check(train=(TRAIN[0], y))
    warned = [finding for finding in findings if finding.level == "warning"]
    assert [finding.where for finding in warned] == ["training split"] * 2
    assert "fewer than 10 examples of '1', '2'" in warned[0].what
    assert "balanced-accuracy" in warned[1].do
    findings = check(train=(TRAIN[0], y), metric="balanced-accuracy")
    assert sum(finding.level == "warning" for finding in findings) == 1


@pytest.mark.parametrize(("shared", "n", "level"), [(1, 200, "warning"), (9, 200, "error"), (1, 30, "error")])
def test_leaks_between_splits(shared: int, n: int, level: str) -> None:
    x, y = pair(n, 4)
    x[5 : 5 + shared] = TRAIN[0][:shared]
    found = only(check(test=(x, y)))
    assert (found.level, found.where) == (level, "test split")
    assert f"{shared} of {n} examples are also in the training split, the first one is example 5" in found.what


def test_a_leak_between_validation_and_test() -> None:
    found = only(check(test=VALIDATION))
    assert "30 of 30 examples are also in the validation split" in found.what


def test_contradicting_labels() -> None:
    x = TRAIN[0].copy()
    x[1] = x[0]
    x[4] = x[3 + 0]
    x[3] = x[0]  # examples 0 and 3 agree, 1 has another label
    found = only(check(train=(x, TRAIN[1])))
    assert found.what.startswith("1 examples equal")


PICTURES = {
    name: ((GENERATOR.random((n, 1, 6, 6)) * 255).astype(np.uint8), np.arange(n) % 3)
    for name, n in (("train", 90), ("validation", 30), ("test", 30))
}


def test_raw_pictures_without_preprocess() -> None:
    found = only(check(**PICTURES))
    assert found.level == "warning" and "no preprocess" in found.what and "1 / 255" in found.do
    assert {f.level for f in check(**PICTURES, preprocess=Scale(1 / 255))} == {"ok"}
    scaled = {name: (x.astype(np.float32) / 255, y) for name, (x, y) in PICTURES.items()}
    assert {f.level for f in check(**scaled)} == {"ok"}


def test_splits_that_are_scaled_differently() -> None:
    x, y = PICTURES["test"]
    found = only(check(**PICTURES | {"test": (x / 255, y)}, preprocess=Scale(1 / 255)))
    assert found.where == "test split" and "values reach" in found.what


def test_channels_last_pictures() -> None:
    given = {name: (np.repeat(x.transpose(0, 2, 3, 1), 3, 3), y) for name, (x, y) in PICTURES.items()}
    found = only(check(**given, preprocess=Scale(1 / 255)))
    assert "(6, 6, 3)" in found.what and "transpose" in found.do


def test_constant_examples() -> None:
    findings = check(train=(TRAIN[0] * 0 + 0.5, TRAIN[1]))
    assert any(f.level == "error" and "every value of every example is 0.5" in f.what for f in findings)
