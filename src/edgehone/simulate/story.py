"""What happened in a simulation: events and accuracy over time, as lines, as JSON, and as one HTML page.

story = Story(clock)
story.answer("north", is_right=True, latency_us=90.0)
story.event("alarm", "north sees something new", mark="an alarm")    # marked: a number on the picture
story.show("north in the dark", [picture, picture])
story.write(folder, "A fleet that learned")                          # story.json and report.html
"""

from __future__ import annotations

import base64
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgehone.report import theme
from edgehone.report.plots import PHONE
from edgehone.report.plots.curves import Line
from edgehone.report.svg import tag
from edgehone.simulate.timeline import Mark, timeline
from edgehone.simulate.times import TimeUnit, unit_for

BIN_S = 2.0
_POINTS = 40  # of a line in the picture: fewer would hide what happened, more would show the noise of small samples
_WIDE = 900
_FOLDER = Path(__file__).parent
_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class Moment:
    """An event, seconds after the start. `mark` is what stands at the picture; "" for an event that is not there."""

    at_s: float
    what: str
    words: str
    mark: str = ""


@dataclass
class Window:
    """Answers of a cohort in one stretch of `BIN_S` seconds."""

    rows: int = 0
    right: int = 0
    latency_us: float = 0.0


class Story:
    """Collects what is told.

    Args:
        clock: gives seconds.
        say: is called with each line for people.
        length_s: how long the story will be, as far as that is known; lines are told in a unit that goes with it.
    """

    def __init__(
        self, clock: Callable[[], float], say: Callable[[str], None] = lambda _: None, *, length_s: float = 0.0
    ) -> None:
        self._clock, self._say, self._start_s, self._length_s = clock, say, clock(), length_s
        self.moments: list[Moment] = []
        self._windows: dict[str, dict[int, Window]] = defaultdict(dict)
        self._latencies: dict[int, list[float]] = defaultdict(list)
        self._shown: list[tuple[str, tuple[bytes, ...]]] = []

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start_s

    @property
    def unit(self) -> TimeUnit:
        """That the page shows times in."""
        last_s = max((one.at_s for one in self.moments), default=0.0)
        return unit_for(max(self._length_s, last_s))

    def event(self, what: str, words: str, *, mark: str = "") -> None:
        """Something happened. `mark` numbers it on the picture, with these few words."""
        self.moments.append(Moment(round(self.now_s, 1), what, words, mark))
        self._say(f"{unit_for(self._length_s).text(self.now_s):>8}  {what:9} {words}")

    def show(self, caption: str, pictures: Sequence[bytes]) -> None:
        """Pictures (PNG) of what devices saw."""
        if pictures:
            self._shown.append((caption, tuple(pictures)))

    def answer(self, cohort: str, *, is_right: bool, latency_us: float) -> None:
        """A node answered."""
        number = int(self.now_s // BIN_S)
        window = self._windows[cohort].setdefault(number, Window())
        window.rows += 1
        window.right += is_right
        window.latency_us += latency_us
        self._latencies[number].append(latency_us)

    def accuracy(self, cohort: str, from_s: float, to_s: float) -> float | None:
        """Share of right answers between two times; None without any."""
        right, rows = self._counts(cohort, from_s, to_s)
        return right / rows if rows else None

    def share(self, cohort: str, from_s: float, to_s: float) -> str:
        """The same in words, with the half width of its 95 % interval (Wald)."""
        right, rows = self._counts(cohort, from_s, to_s)
        if not rows:
            return "no answers"
        value = right / rows
        return f"{100 * value:.1f} ± {196 * math.sqrt(value * (1 - value) / rows):.1f} %"

    def _counts(self, cohort: str, from_s: float, to_s: float) -> tuple[int, int]:
        found = [w for n, w in self._windows[cohort].items() if from_s <= n * BIN_S and (n + 1) * BIN_S <= to_s]
        return sum(window.right for window in found), sum(window.rows for window in found)

    def latency_us(self, from_s: float, to_s: float) -> float | None:
        """Median latency between two times; None without any."""
        found = [v for n, values in self._latencies.items() if from_s <= n * BIN_S <= to_s for v in values]
        return median(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs: moments, and accuracy per cohort in windows of `BIN_S` seconds."""
        return {
            "schema": 1,
            "moments": [asdict(one) for one in self.moments],
            "accuracy": {
                cohort: [
                    {"at_s": n * BIN_S, "rows": w.rows, "right": w.right, "latency_us": w.latency_us / w.rows}
                    for n, w in sorted(windows.items())
                ]
                for cohort, windows in self._windows.items()
            },
        }

    def html(self, title: str, headline: str = "", tiles: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> str:
        """One page that loads nothing.

        Args:
            title: of the page.
            headline: one sentence below it.
            tiles: name → (stage, figure in words), the last of which counts most.
        """
        lines = [
            Line(cohort, number + 1, _points(windows))
            for number, (cohort, windows) in enumerate(sorted(self._windows.items()))
        ]
        marks = [Mark(one.at_s, one.mark) for one in self.moments if one.mark]
        unit, drawn = self.unit, ""
        for box, width in (("narrow", PHONE), ("wide", _WIDE)) if lines else ():
            drawn += tag(
                "div", timeline(lines, marks, "accuracy", lambda value: f"{value:.0f} %", width, unit), class_=box
            )
        shown = [
            {
                "caption": caption,
                "sources": ["data:image/png;base64," + base64.b64encode(one).decode() for one in pictures],
            }
            for caption, pictures in self._shown
        ]
        return _TEMPLATES.get_template("story.html.j2").render(
            title=title, headline=headline, marks=marks, moments=self.moments, shown=shown, time=unit.text,
            tiles=[{"name": name, "stages": list(values)} for name, values in (tiles or {}).items()],
            plot=Markup(drawn),  # drawn by us: names in it are escaped
            style=Markup(theme.variables() + (_FOLDER / "story.css").read_text(encoding="utf-8")),
        )  # fmt: skip

    def write(
        self,
        folder: Path,
        title: str,
        headline: str = "",
        tiles: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    ) -> Path:
        """Write story.json and report.html (see `html`); the page's path. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "story.json").write_text(json.dumps(self.to_json(), indent=1))
        page = folder / "report.html"
        page.write_text(self.html(title, headline, tiles), encoding="utf-8")
        return page


def _points(windows: Mapping[int, Window]) -> tuple[tuple[float, float], ...]:
    """(seconds, accuracy in %) of windows, put together so that a line has about `_POINTS` of them."""
    if not windows:
        return ()
    together = max(1, -(-(max(windows) - min(windows) + 1) // _POINTS))
    groups: dict[int, list[tuple[int, Window]]] = defaultdict(list)
    for number, window in windows.items():
        groups[number // together].append((number, window))
    return tuple(
        ((group + 0.5) * together * BIN_S, 100 * sum(w.right for _, w in found) / sum(w.rows for _, w in found))
        for group, found in sorted(groups.items())
    )
