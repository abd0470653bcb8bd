"""Data-set versions: what each was made of, and which releases were trained on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Row, select

from edgehone.records.tables import dataset, release
from edgehone.service.dashboard.paper import page
from edgehone.service.dashboard.visits import PageRoute, Visitor
from edgehone.service.gate import TheCore

router = APIRouter(route_class=PageRoute)

MOST = 200


@dataclass(frozen=True)
class Version:
    """A version of a data set.

    Attributes:
        row: of `dataset`.
        total: examples.
        sources: (name, examples) by source.
        labels: (name, examples) by label, the largest first.
        releases: (member, version) that were trained on it.
    """

    row: Row[Any]
    total: int
    sources: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, int], ...]
    releases: tuple[tuple[str, int], ...]


@router.get("/data")
def show(request: Request, core: TheCore, caller: Visitor) -> Response:
    """Every version, newest first."""
    made: dict[str, list[tuple[str, int]]] = defaultdict(list)
    with core.database.read() as conn:
        order = (dataset.c.created_s.desc(), dataset.c.digest)
        rows = conn.execute(select(dataset).order_by(*order).limit(MOST)).all()
        mine = select(release).where(release.c.dataset.in_([row.digest for row in rows]))
        for one in conn.execute(mine.order_by(release.c.version)):
            made[one.dataset].append((one.member, one.version))
    versions = [read(row, tuple(made[row.digest])) for row in rows]
    return page(request, "datasets.html.j2", caller, title="Data", versions=versions)


def read(row: Row[Any], releases: tuple[tuple[str, int], ...] = ()) -> Version:
    """A row with its counts made readable; what is no count is left out."""
    sources = tuple((name, count) for name, count in row.counts.items() if _is_count(count))
    named = row.counts.get("labels")
    labels = [(str(n), c) for n, c in named.items() if _is_count(c)] if isinstance(named, Mapping) else []
    labels.sort(key=lambda pair: (-pair[1], pair[0]))
    return Version(row, sum(count for _, count in sources), sources, tuple(labels[:40]), releases)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
