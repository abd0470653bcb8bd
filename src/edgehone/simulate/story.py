"""What happened in a simulation: events and accuracy over time, as lines, as JSON, and as one HTML page.

story = Story(clock)
story.answer("north", is_right=True, latency_us=90.0, level=0)
story.event("alarm", "north sees something new")
story.write(folder)                   # story.json and report.html
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from edgehone.report import theme
from edgehone.report.plots import both
from edgehone.report.plots.curves import Line, curves

BIN_S = 2.0
_STYLE = """
body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;
max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--rule)}
td:first-child{font-variant-numeric:tabular-nums;white-space:nowrap;color:var(--soft)}svg{width:100%;height:auto}
.wide{display:none}@media(min-width:48rem){.wide{display:block}.narrow{display:none}}
text{fill:var(--soft);font-size:12px}.grid{stroke:var(--grid)}.base{stroke:var(--rule)}.curve{fill:none;stroke:var(--c);stroke-width:2}
.leader{fill:none;stroke:var(--c)}.mark,.name{fill:var(--c)}.c-0{--c:var(--hue0)}.c-1{--c:var(--hue1)}.c-2{--c:var(--hue2)}
.c-3{--c:var(--hue3)}.c-4{--c:var(--hue4)}.c-5{--c:var(--hue5)}.c-original{--c:var(--original)}
"""


@dataclass(frozen=True)
class Moment:
    """An event, seconds after the start."""

    at_s: float
    what: str
    words: str


@dataclass
class Window:
    """Answers of a cohort in one stretch of `BIN_S` seconds."""

    rows: int = 0
    right: int = 0
    latency_us: float = 0.0


class Story:
    """Collects. `clock` gives seconds; `say` is called with each line for people."""

    def __init__(self, clock: Callable[[], float], say: Callable[[str], None] = lambda _: None) -> None:
        self._clock, self._say, self._start_s = clock, say, clock()
        self.moments: list[Moment] = []
        self._windows: dict[str, dict[int, Window]] = defaultdict(dict)
        self._latencies: dict[int, list[float]] = defaultdict(list)

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start_s

    def event(self, what: str, words: str) -> None:
        """Something happened."""
        self.moments.append(Moment(round(self.now_s, 1), what, words))
        self._say(f"{self.now_s:6.1f} s  {what:9} {words}")

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
        found = [w for n, w in self._windows[cohort].items() if from_s <= n * BIN_S and (n + 1) * BIN_S <= to_s]
        rows = sum(window.rows for window in found)
        return sum(window.right for window in found) / rows if rows else None

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

    def html(self, title: str) -> str:
        """One page that loads nothing."""
        lines = [
            Line(cohort, number + 1, tuple((n * BIN_S, 100 * w.right / w.rows) for n, w in sorted(windows.items())))
            for number, (cohort, windows) in enumerate(sorted(self._windows.items()))
        ]
        drawn = both(lambda width: curves(lines, "accuracy", lambda v: f"{v:.0f} %", width, rate=True)) if lines else ""
        drawn = drawn.replace(">epochs<", ">seconds<").replace("over epochs", "over seconds").replace(" epochs", " s")
        rows = "".join(
            f"<tr><td>{one.at_s:.1f} s</td><td>{escape(one.what)}</td><td>{escape(one.words)}</td></tr>"
            for one in self.moments
        )
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
            f"<style>{theme.variables()}{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
            f"<h2>Accuracy of each cohort</h2>{drawn}<h2>What happened</h2>"
            f"<table><thead><tr><th>when</th><th>what</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
            f"</body></html>\n"
        )

    def write(self, folder: Path, title: str) -> Path:
        """Write story.json and report.html; the page's path. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "story.json").write_text(json.dumps(self.to_json(), indent=1))
        page = folder / "report.html"
        page.write_text(self.html(title), encoding="utf-8")
        return page
