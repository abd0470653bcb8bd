"""The report: one HTML file that loads nothing, works without scripts, and looks right on paper and on a phone."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgehone.record import StudyRecord
from edgehone.report import theme, view
from edgehone.report.family import rows
from edgehone.report.headline import headline

NAME = "report.html"

_FOLDER = Path(__file__).parent / "templates"
_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(record: StudyRecord) -> str:
    """The whole page of a study as HTML."""
    style = Markup(theme.variables() + _source("report.css"))
    page = view.page(record)
    return _TEMPLATES.get_template("report.html.j2").render(page=page, style=style, script=Markup(_source("report.js")))


def write(record: StudyRecord, folder: Path) -> Path:
    """Write the page into `folder` as report.html, whole or not at all, and return its path.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    path = folder / NAME
    draft = path.with_suffix(".html.part")
    draft.write_text(render(record), encoding="utf-8")
    draft.replace(path)
    return path


def notebook(record: StudyRecord) -> str:
    """A compact fragment for a notebook cell: the headline and the family table."""
    return _TEMPLATES.get_template("notebook.html.j2").render(
        headline=headline(record), verdict=record.verdict, rows=rows(record), style=Markup(_source("notebook.css"))
    )


def _source(name: str) -> str:
    """A file beside the templates, as it is: ours, so it needs no escaping."""
    return (_FOLDER / name).read_text(encoding="utf-8")
