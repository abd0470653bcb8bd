"""The page: complete without scripts, valid, safe, self-contained, and honest about estimates."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgehone.record import ClassRecord, FlipRecord, LayerRecord, StudyRecord
from edgehone.report import page
from edgehone.testing.records import bare_record, example_record

VOID = {"meta", "link", "br", "input", "img", "hr", "wbr"}
STUDIES = {
    "usual": lambda: example_record(),
    "one member, two classes": lambda: example_record(1, 2),
    "many members and classes": lambda: example_record(12, 1000, elsewhere=True, met=False),
    "twenty classes": lambda: example_record(2, 20),
    "twenty-one classes": lambda: example_record(2, 21),
    "regression": lambda: example_record(kind="regression"),
    "anomaly": lambda: example_record(kind="anomaly"),
    "bare": bare_record,
    "no members": lambda: replace(bare_record(), members=()),
}


class Reader(HTMLParser):
    """Collects tags and attributes, and what is closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@pytest.fixture(params=STUDIES, scope="module")
def study(request: pytest.FixtureRequest) -> StudyRecord:
    return STUDIES[request.param]()


@pytest.fixture(scope="module")
def html(study: StudyRecord) -> str:
    return page.render(study)


def test_tags_are_balanced(html: str) -> None:
    reader = read(html)
    assert reader.wrong == []
    assert reader.open == []


def test_ids_are_unique_and_links_lead_somewhere(html: str) -> None:
    reader = read(html)
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value for tag, name, value in reader.attributes if (tag, name) == ("a", "href")}
    assert links <= {f"#{i}" for i in ids}


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    assert "http://" not in html
    assert "https://" not in html
    reader = read(html)
    loads = {(tag, value) for tag, name, value in reader.attributes if name in {"src", "srcset", "href", "xlink:href"}}
    assert {(tag, value) for tag, value in loads if tag != "a"} == {("link", "data:,")}
    assert "url(" not in html
    assert "@import" not in html


def test_every_version_is_there_without_scripts(study: StudyRecord, html: str) -> None:
    reader = read(html)
    articles = [value for tag, name, value in reader.attributes if tag == "article" and name == "data-member"]
    assert articles == [str(i) for i in range(len(study.members) + 1)]
    text = " ".join(reader.text)
    for member in (study.original, *study.members):
        assert member.name in text
    hidden = {tag for tag, name, _ in reader.attributes if name == "hidden"}
    assert hidden <= {"button", "div"}  # the theme and copy buttons, the tabs and the tooltip need scripts


def test_no_figure_is_nonsense(html: str) -> None:
    text = " ".join(read(html).text)
    assert not re.search(r"\b(nan|None|inf|undefined|Measurement)\b", text)
    shapes = " ".join(
        value for _, name, value in read(html).attributes if name in {"d", "x", "y", "cx", "cy", "height"}
    )
    assert not re.search(r"nan|inf|e[+-]?\d", shapes)


def test_every_picture_says_what_it_shows(html: str) -> None:
    pictures = re.findall(r"<svg[^>]*class=\"plot[^>]*>", html)
    assert all('role="img"' in picture and re.search(r'aria-label="[^"]{10,}"', picture) for picture in pictures)


@pytest.mark.parametrize("name", ["usual", "twenty classes", "regression"])
def test_a_usual_page_is_less_than_a_megabyte(name: str) -> None:
    assert len(page.render(STUDIES[name]()).encode()) < 1_000_000


def test_the_usual_page_shows_everything_that_was_found() -> None:
    study = example_record()
    text = " ".join(read(page.render(study)).text)
    for trial in study.trials:
        assert trial.name in text
        assert trial.reason in text
    for phase in study.seconds:
        assert phase in text
    for version in study.machine["versions"].values():
        assert version in text
    for member in study.members:
        assert f"Path('{member.files[0].path}')" in text
        assert member.files[0].sha256 in text
        for step in member.recipe:
            assert f'"{step["technique"]}"' in text
    for layer in study.original.layers:
        assert layer.name in text
    assert study.original.latency[0].latency.method in text


def test_names_from_outside_are_text_and_never_markup() -> None:
    evil = "<script>alert('x')</script>\"&"
    study = example_record(1, 2)
    member = replace(
        study.members[0], name=evil, classes=(ClassRecord(evil, 10, 0.9, 0.8),),
        flips=(FlipRecord(evil, "b" + evil, 3),),
        layers=(LayerRecord(evil, evil, 16, 8, 10, (1,) * 10),), recipe=({"technique": evil, evil: evil},),
        files=tuple(replace(file, path=evil, sha256=evil) for file in study.members[0].files),
        latency=tuple(replace(entry, runtime=evil, file=evil) for entry in study.members[0].latency),
    )  # fmt: skip
    changed = replace(
        study, members=(member,), verdict=evil, created=evil, task={"name": evil, "labels": [evil], evil: evil},
        trials=(replace(study.trials[0], name=evil, reason=evil, parent=evil),), machine={evil: {evil: [evil]}},
        device={"title": evil}, seconds={evil: 1.0},
    )  # fmt: skip
    html = page.render(changed)
    assert html.count("<script>") == 1  # our own
    assert escape(evil, quote=False).split("'")[0] in html
    reader = read(html)
    assert reader.wrong == []
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    notebook = page.notebook(changed)
    assert "<script" not in notebook
    assert read(notebook).wrong == []


def test_an_estimate_is_never_shown_as_measured() -> None:
    elsewhere, here = page.render(example_record(elsewhere=True)), page.render(example_record())
    cell = re.compile(r'<td data-label="LiteRT latency">(.*?)</td>', re.DOTALL)
    assert all("estimated</small>" in text for text in cell.findall(elsewhere))
    assert len(cell.findall(elsewhere)) == 4
    assert not any("estimated" in text for text in cell.findall(here))
    assert "estimated latency" in elsewhere
    assert "estimated latency" not in here


def test_a_column_that_nobody_has_a_figure_for_is_left_out() -> None:
    assert 'data-label="LiteRT speed-up"' in page.render(example_record())
    assert 'data-label="LiteRT speed-up"' not in page.render(example_record(elsewhere=True))
    assert 'data-label="Energy"' not in page.render(example_record())


def test_sections_without_data_are_left_out() -> None:
    sections = set(re.findall(r'<section id="(\w+)"', page.render(bare_record())))
    assert sections == {"family", "members", "method"}


def test_long_networks_and_names_stay_readable() -> None:
    name = "backbone." * 20 + "conv"
    study = example_record(1)
    layers = tuple(LayerRecord(f"{name}{i}", "conv2d", 256, 128, 10**9, (3,) * 10) for i in range(200))
    html = page.render(replace(study, members=(replace(study.members[0], name="n" * 90, layers=layers),)))
    texts = re.findall(r"<text[^>]*>(.*?)</text>", html)
    assert max(map(len, texts)) <= 40


def test_it_is_written_whole(tmp_path: Path) -> None:
    study = example_record(1, 2)
    path = page.write(study, tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == page.render(study)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_page_is_the_same_every_time() -> None:
    assert page.render(example_record()) == page.render(example_record())


def test_the_notebook_fragment_is_small_and_whole(study: StudyRecord) -> None:
    fragment = page.notebook(study)
    reader = read(fragment)
    assert reader.wrong == []
    assert reader.open == []
    assert len(fragment) < 40_000
    assert all(member.name in fragment for member in study.members)
