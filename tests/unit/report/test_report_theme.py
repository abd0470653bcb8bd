"""Colours can be read and told apart in both themes."""

from __future__ import annotations

import pytest

from edgehone.report.theme import HUES, SHAPES, TOKENS, contrast, member_class, member_shape, variables

THEMES = ("light", "dark")
TEXT = [("ink", "paper"), ("ink", "card"), ("ink", "wash"), ("soft", "paper"), ("soft", "card"), ("soft", "wash"),
        ("accent", "paper"), ("accent", "wash"), ("good", "good-wash"), ("bad", "bad-wash"), ("good", "paper"),
        ("bad", "paper"), ("paper", "ink")]  # fmt: skip
MARKS = [(f"hue{i}", "card") for i in range(HUES)] + [("original", "card"), ("accent", "card")]


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the well-known grey that just fails


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("front", "back"), TEXT)
def test_text_can_be_read(theme: str, front: str, back: str) -> None:
    assert contrast(getattr(TOKENS[front], theme), getattr(TOKENS[back], theme)) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("front", "back"), MARKS)
def test_marks_and_their_names_stand_out(theme: str, front: str, back: str) -> None:
    assert contrast(getattr(TOKENS[front], theme), getattr(TOKENS[back], theme)) >= 3.0


def test_twelve_members_differ_in_hue_or_shape() -> None:
    assert len({(member_class(i), member_shape(i)) for i in range(1, 13)}) == 12
    assert {member_shape(i) for i in range(13)} <= set(SHAPES)


def test_dark_is_there_for_the_system_and_for_the_switch() -> None:
    css = variables()
    assert css.count(TOKENS["paper"].dark) == 2
    assert "prefers-color-scheme:dark" in css
    assert "[data-theme=dark]" in css
