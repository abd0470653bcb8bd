"""Every ```python block of the documentation runs, and every relative link leads somewhere.

The blocks of a page run in order, in one fresh process, in an empty folder. Blocks marked ```python no-run do not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted({ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").rglob("*.md")})
ALL_PAGES = sorted({*(ROOT / folder / "README.md" for folder in ("agent", "examples")), *ROOT.glob("*.md"), *PAGES})
BLOCK = re.compile(r"^(?P<indent> *)```(?P<mark>python.*)\n(?P<code>(?:.*\n)*?)(?P=indent)```$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
STUDIES = {"README.md"}  # pages whose examples make a whole family: a minute instead of seconds
SAVED = {"docs/devices.md": ("toml", "boards/my_board.toml")}  # a block that its reader saves as a file first


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """Line number, mark after ``` and code of every block that starts with ```python."""
    text = page.read_text()
    return [
        (text[: match.start()].count("\n") + 1, match["mark"], textwrap.dedent(match["code"]))
        for match in BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runnable(pages: list[Path]) -> list[object]:
    """Pages with at least one block that runs."""
    return [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if name_of(page) in STUDIES else [])
        for page in pages
        if any(mark == "python" for _, mark, _ in blocks(page))
    ]


@pytest.mark.parametrize("page", runnable(PAGES))
def test_the_examples_run(page: Path, tmp_path: Path) -> None:
    code = []
    for line, mark, block in blocks(page):
        if mark == "python":
            padded = "\n" * line + block  # so that a traceback names the line of the page
            code.append(f"exec(compile({padded!r}, {name_of(page)!r}, 'exec'), globals())")
    script = tmp_path / "examples_of_this_page.py"
    script.write_text("\n".join(code))
    folder = tmp_path / "work"
    folder.mkdir()
    if name_of(page) in SAVED:
        save_block(page, *SAVED[name_of(page)], folder)
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=folder, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def save_block(page: Path, language: str, name: str, folder: Path) -> None:
    """Save the page's first block in a language as a file."""
    match = re.search(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    assert match is not None
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(match[1])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_marks_are_known(page: Path) -> None:
    assert {mark for _, mark, _ in blocks(page)} <= {"python", "python no-run"}
    compiled = [compile(code, name_of(page), "exec") for _, _, code in blocks(page)]
    assert len(compiled) == page.read_text().count("```python")


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        path, _, section = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (section and section not in sections(target)):
            broken.append(link)
    assert broken == []


def sections(page: Path) -> set[str]:
    """The anchors that readers' web pages make of headings: lower case, dashes for spaces, no punctuation."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(page.read_text())]
    assert [name_of(page) for page in PAGES if page not in seen] == []


def test_the_python_of_the_readme_is_short() -> None:
    ((_, _, code),) = blocks(ROOT / "README.md")
    assert len(code.splitlines()) <= 22
