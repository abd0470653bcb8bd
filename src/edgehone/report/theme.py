"""Colours of the report, as data: one place, light and dark, turned into CSS variables.

Members take the six hues of Okabe and Ito's colour-blind safe set (2008, "Color Universal Design"), moved in lightness
until each stands out against the page; the marker's shape tells them apart too, so colour is never the only sign.
Text keeps a contrast of 4.5 and marks of 3 against their background (WCAG 2.2, 1.4.3 and 1.4.11).
"""

from __future__ import annotations

from typing import NamedTuple

HUES = 6
SHAPES = ("circle", "square", "diamond", "triangle")


class Shade(NamedTuple):
    """One colour in both themes."""

    light: str
    dark: str


TOKENS: dict[str, Shade] = {
    "paper": Shade("#fbfbf9", "#121417"),
    "card": Shade("#ffffff", "#191c20"),
    "ink": Shade("#15181c", "#eceef0"),
    "soft": Shade("#565d66", "#a4acb6"),
    "rule": Shade("#e4e4df", "#2b3037"),
    "grid": Shade("#ecece8", "#23272d"),
    "wash": Shade("#f3f3ef", "#1f2328"),
    "accent": Shade("#0b6b5d", "#5cc9b3"),
    "good": Shade("#0a6e4f", "#57c99a"),
    "good-wash": Shade("#e4f3ec", "#15302a"),
    "bad": Shade("#a83c09", "#f39a6b"),
    "bad-wash": Shade("#fbece3", "#38231a"),
    "original": Shade("#737a84", "#98a1ac"),
    "hue0": Shade("#0072b2", "#4aa8e0"),
    "hue1": Shade("#d0560a", "#f0884a"),
    "hue2": Shade("#00845f", "#35c193"),
    "hue3": Shade("#b0528a", "#dd8cbb"),
    "hue4": Shade("#946c00", "#dcae3c"),
    "hue5": Shade("#5b5fc7", "#9a9df0"),
}


def variables() -> str:
    """CSS that defines every token for light, for dark by the reader's system, and for a theme chosen on the page."""
    light = ";".join(f"--{name}:{shade.light}" for name, shade in TOKENS.items())
    dark = ";".join(f"--{name}:{shade.dark}" for name, shade in TOKENS.items())
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}\n"
    )


def member_class(index: int) -> str:
    """CSS class that gives member `index` its hue as `--c`; 0 is the original."""
    return "c-original" if index == 0 else f"c-{(index - 1) % HUES}"


def member_shape(index: int) -> str:
    """Name of the marker of member `index`; the original is a circle that is not filled."""
    return SHAPES[0] if index == 0 else SHAPES[(index - 1) % len(SHAPES)]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours "#rrggbb", 1 to 21 (WCAG 2.2, relative luminance)."""
    bright, dim = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    def linear(channel: float) -> float:
        return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
