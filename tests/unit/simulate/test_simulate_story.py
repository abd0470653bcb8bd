"""The story of a simulation: its figures, its picture with numbered marks, and a page that loads nothing."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgehone.report.plots.curves import Line
from edgehone.service.dashboard.readings import as_picture
from edgehone.simulate.story import Story
from edgehone.simulate.timeline import Mark, timeline
from edgehone.simulate.times import DAY_S, HOUR_S, SECONDS, unit_for


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def told() -> tuple[Story, Clock]:
    clock = Clock()
    story = Story(clock)
    for second in range(120):
        clock.now_s = 100.0 + second
        for number in range(10):
            story.answer("north", is_right=number < (9 if second < 60 else 6), latency_us=50.0 + second)
            story.answer("<south>", is_right=True, latency_us=50.0)
        if second == 60:
            story.event("phase", "dark & cold", mark="north <b>dark</b>")
        if second == 61:
            story.event("alarm", "the watch")
    return story, clock


def test_figures_of_a_span() -> None:
    story, _ = told()
    assert story.accuracy("north", 0, 60) == pytest.approx(0.9)
    assert story.accuracy("north", 60, 120) == pytest.approx(0.6)
    assert story.accuracy("nobody", 0, 60) is None
    assert story.share("north", 60, 120) == "60.0 ± 3.9 %"  # 1.96 · √(0.6 · 0.4 / 600)
    assert story.share("north", 200, 300) == "no answers"
    assert story.latency_us(0, 1) == 50.0


def test_the_page_has_everything_and_loads_nothing(tmp_path: Path) -> None:
    story, _ = told()
    picture = as_picture(np.full((1, 8, 8), 3.0, np.float32))
    assert picture is not None
    story.show("a <dark> reading", [picture, picture])
    page = story.write(tmp_path, "A fleet", "One sentence & more.", {"north": [("before", "90 %"), ("after", "<60 %")]})
    html = page.read_text()
    assert html.count("<svg") == 2  # for a phone and for a wide column
    assert html.count('src="data:image/png;base64,') == 2
    assert "north &lt;b&gt;dark&lt;/b&gt;" in html and "a &lt;dark&gt; reading" in html and "&lt;60 %" in html
    assert "<b>dark" not in html and "<south>" not in html and "One sentence &amp; more." in html
    assert not re.findall(r"""(?:src|href)="(?!data:)|@import|url\(|<script""", html)
    assert html.index("dark &amp; cold") < html.index(">the watch<")
    found = json.loads((tmp_path / "story.json").read_text())
    assert [one["what"] for one in found["moments"]] == ["phase", "alarm"]
    assert sum(one["rows"] for one in found["accuracy"]["north"]) == 1200


def test_a_story_without_answers_is_a_page() -> None:
    html = Story(Clock()).html("nothing yet")
    assert "<svg" not in html and "nothing yet" in html


def test_marks_keep_their_order_and_do_not_overlap() -> None:
    line = Line("north", 1, tuple((float(at), 90.0) for at in range(0, 100, 2)))
    marks = [Mark(at, f"mark {at}") for at in (10.0, 10.5, 11.0, 60.0)]
    drawn = timeline([line], marks, "accuracy", lambda value: f"{value:.0f} %", 510, SECONDS)
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"[^>]*class="badge"', drawn)]
    assert len(places) == 4 and all(b - a >= 18 for a, b in pairwise(places))
    assert [int(n) for n in re.findall(r'class="number">(\d)<', drawn)] == [1, 2, 3, 4]
    assert "accuracy over time: north ends at 90 %" in drawn


@pytest.mark.parametrize(
    ("length_s", "text"),
    [
        (0, "9000.0 s"),
        (1199, "9000.0 s"),
        (1200, "150.0 min"),
        (5 * HOUR_S, "2.5 h"),
        (3 * DAY_S, "2.5 h"),
        (7 * DAY_S, "0.10 d"),
    ],
)
def test_the_unit_goes_with_the_length(length_s: float, text: str) -> None:
    assert unit_for(length_s).text(9000.0) == text


def test_a_story_of_days_is_told_in_hours() -> None:
    clock, lines = Clock(), list[str]()
    story = Story(clock, lines.append, length_s=3 * DAY_S)
    for hour in range(60):
        clock.now_s = 100.0 + hour * HOUR_S
        story.answer("north", is_right=True, latency_us=50.0)
    story.event("alarm", "the watch", mark="an alarm")
    assert lines == ["  59.0 h  alarm     the watch"]
    html = story.html("days")
    assert "<td>59.0 h</td>" in html and "<b>59.0 h</b> an alarm" in html and "59.0 h: an alarm" in html
    assert ">hours</text>" in html and ">seconds<" not in html
    late = Story(clock)  # nobody knew how long it would be
    clock.now_s += 2 * HOUR_S
    late.event("phase", "normal")
    assert "<td>120.0 min</td>" in late.html("hours")
