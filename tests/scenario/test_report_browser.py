"""The report in a real browser: no error, no request, nothing hidden, cut off, or on top of something else."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from edgehone.record import StudyRecord
from edgehone.report import page
from edgehone.testing.records import example_record

pytestmark = pytest.mark.slow

WIDTHS = (390, 820, 1440)
STUDIES = {
    "usual": example_record(),
    "estimated, twelve members": example_record(12, 30, elsewhere=True, met=False),
    "regression": example_record(2, kind="regression"),
}
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--virtual-time-budget=4000", "--window-size=1600,1200",
)  # fmt: skip

# Runs inside the page, before everything else.
WATCH = """<script>
window.wrong = [];
addEventListener("error", (e) => wrong.push("error: " + e.message));
addEventListener("securitypolicyviolation", (e) => wrong.push("blocked: " + e.blockedURI));
for (const level of ["error", "warn"]) console[level] = (...words) => wrong.push(level + ": " + words.join(" "));
</script>"""

# Runs outside, when the framed page has loaded.
MEASURE = (Path(__file__).parent / "report_measure.js").read_text(encoding="utf-8")


def in_script(text: str) -> str:
    """The text as a string of a script; "<!--" and "</script>" would end or confuse the element."""
    return json.dumps(text).replace("<", "\\u003c")


def look(chromium: str, folder: Path, study: StudyRecord, width: int, theme: str = "light") -> dict[str, Any]:
    html = page.render(study).replace("<head>", f"<head>{WATCH}", 1).replace("<html", f'<html data-theme="{theme}"', 1)
    outer = folder / "outer.html"
    # the frame stands for the window, whose width headless Chromium does not let go below 500
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><body><iframe style="width:{width}px;height:900px;border:0"></iframe>'
        f"<script>{MEASURE}frame.srcdoc = {in_script(html)};</script>",
        encoding="utf-8",
    )
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", outer.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<body[^>]* data-found="(.*?)"', result.stdout, re.DOTALL)
    assert found, result.stderr[-2000:]
    return json.loads(unescape(found.group(1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", STUDIES)
def test_it_is_whole_at_every_width(chromium: str, tmp_path: Path, name: str, width: int) -> None:
    study = STUDIES[name]
    found = look(chromium, tmp_path, study, width)
    assert found["wrong"] == []
    assert found["requests"] == []
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["cut"] == []
    assert found["lie"] == []
    assert found["tiny"] == []
    assert found["plots"] >= 6
    assert found["shown"] == 1
    for member in study.members:
        assert member.name in found["text"]
    assert (found["labels"] > 0) == (width < 1024)  # cards, each figure with its name, where the table is too wide


def test_the_theme_can_be_chosen(chromium: str, tmp_path: Path) -> None:
    study = STUDIES["regression"]
    light, dark = (look(chromium, tmp_path, study, 820, theme)["paper"] for theme in ("light", "dark"))
    assert light == "rgb(251, 251, 249)"
    assert dark == "rgb(18, 20, 23)"


def test_the_watch_sees_what_goes_wrong(chromium: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = '<img src="https://example.invalid/x.png" alt="">'
    wide = f'{image}<div style="width:900px">.</div><script>throw new Error("seen")</script>'
    whole = page.render(STUDIES["regression"])
    monkeypatch.setattr(page, "render", lambda study: whole.replace("<main", f"{wide}<main", 1))
    found = look(chromium, tmp_path, STUDIES["regression"], 390)
    assert any("seen" in text for text in found["wrong"])
    assert any("blocked: https://example.invalid" in text for text in found["wrong"])
    assert found["scroll"] > 390
