"""Whom the loop believes: conflicts, trust, and poisoned sources, which are found while honest ones are left alone."""

from __future__ import annotations

import random

import pytest

from edgehone.loop.trust import POISONED, Said, Sampled, Vote, settle, suspects, trust_of

CLASSES = 4


def sampled(node: str = "a", id: str = "p1", answered: int = 0) -> Sampled:
    return Sampled(node, id, "f" * 64, f"{hash((node, id)) & 0xFFFF:064x}", answered, "uniform", 0.1)


def vote(label: int | None, *, sender: str = "a", by: str = "", at_s: float = 0.0, **values: object) -> Vote:
    return Vote(sender, f"{sender}{by}{at_s}", by, str(values.pop("kind", "correct")), label, time_s=at_s, **values)  # type: ignore[arg-type]


def only(votes: list[Vote], min_trust: float = 0.0, said: list[Said] | None = None) -> object:
    return settle([*(said or []), (sampled(), votes)], min_trust=min_trust)[-1]


def test_the_latest_word_of_one_person_counts() -> None:
    found = settle([(sampled(), [vote(1, by="ann", at_s=5.0), vote(2, by="ann", at_s=9.0)])])[0]
    assert (found.label, found.conflict, found.voices) == (2, False, ("annotator:ann",))


def test_more_trust_wins_and_of_equals_the_later() -> None:
    words = [vote(1, by="ann"), vote(1, by="bob"), vote(2, by="eve", at_s=9.0)]
    found = settle([(sampled(), words)])[0]
    assert found.label == 1 and found.conflict and found.trust < 0.8
    assert settle([(sampled(), words[1:])])[0].label == 2
    assert settle([(sampled(), [vote(1, by="ann", trust=0.9), vote(2, by="eve", at_s=9.0, trust=0.3)])])[0].label == 1


def test_who_contradicts_the_audit_is_trusted_less() -> None:
    said: list[Said] = []
    for number in range(30):
        words = [vote(1, sender="core", by="op"), vote(1, by="good"), vote(2 if number else 1, by="bad")]
        said.append((sampled(id=f"p{number}"), words))
    trust = trust_of(said)
    assert trust["annotator:bad"] < 0.2 < 0.9 < trust["annotator:good"]
    new = (sampled(id="new"), [vote(2, by="bad")])
    assert settle([*said, new], min_trust=0.5)[-1].label is None
    both = (sampled(id="new"), [vote(2, by="bad", at_s=9.0), vote(3, by="good")])
    assert settle([*said, both])[-1].label == 3


@pytest.mark.parametrize("kind", ["delete", "ignore"])
def test_what_must_not_be_learnt_is_not(kind: str) -> None:
    assert settle([(sampled(), [vote(1, by="ann"), vote(None, by="bob", kind=kind)])])[0].label is None


def test_a_new_class_and_quarantined_words_teach_nothing() -> None:
    found = settle([(sampled(), [vote(None, kind="new_class", unknown="ozone")])])[0]
    assert found.label is None and found.unknown == "ozone"
    assert settle([(sampled(), [vote(1, quarantined="the node is quarantined")])])[0].label is None


def world(seed: int, *, nodes: int = 40, bad: int = 2, rows: int = 60, error: float = 0.12) -> list[Said]:
    """Labels from nodes, of which some turn every label; the model errs differently on each node."""
    draw = random.Random(seed)
    said: list[Said] = []
    for number in range(nodes):
        mine = error * draw.uniform(0.3, 1.7)
        for row in range(rows):
            truth = draw.randrange(CLASSES)
            answered = (truth + 1) % CLASSES if draw.random() < mine else truth
            label = (truth + 1) % CLASSES if number < bad else truth
            said.append((sampled(f"n{number}", f"p{row}", answered), [vote(label, sender=f"n{number}")]))
    return said


@pytest.mark.parametrize("seed", range(20))
def test_five_in_a_hundred_that_flip_labels_are_found_and_nobody_else(seed: int) -> None:
    found = suspects(world(seed), bound=0.01, margin=0.15)
    assert {one.name for one in found} == {"n0", "n1"}
    assert all(one.why.startswith(POISONED) and one.log_e > 5 for one in found)


def test_a_drifted_honest_node_is_left_alone_and_a_liar_there_is_found_by_the_audit() -> None:
    said = world(1, bad=0)
    sick = [
        (sampled("n0", f"x{row}", 1), [vote(0, sender="n0")]) for row in range(80)
    ]  # the model is always wrong there
    assert {one.name for one in suspects([*said, *sick], bound=0.01, margin=0.15)} == {"n0"}
    assert suspects([*said, *sick], bound=0.01, margin=0.15, drifted={"n0"}) == []
    audited = [
        (sampled("n0", f"y{row}", 1), [vote(2, sender="n0"), vote(0, sender="core", by="op")]) for row in range(40)
    ]  # fmt: skip
    found = suspects([*said, *audited], bound=0.01, margin=0.15, drifted={"n0"})
    assert [one.name for one in found] == ["n0"] and "core" in found[0].why


def test_people_who_only_correct_are_not_poison() -> None:
    said = [
        (sampled(f"n{number}", f"p{row}", 1), [vote(0, sender=f"n{number}", is_asked=False)])
        for number in range(10)
        for row in range(50)
    ]
    assert suspects([*world(3, bad=0), *said], bound=0.01, margin=0.15) == []


def test_a_few_labels_prove_nothing() -> None:
    assert suspects(world(2, bad=2, rows=4), bound=0.01, margin=0.15) == []
