"""Deltas in `edgehone registry publish`: what is wanted, how far they are, and what came of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgehone.cli._progress import TerminalProgress
from edgehone.errors import InputError
from edgehone.units import format_size, parse_duration_s

if TYPE_CHECKING:
    from edgehone.registry.publish import Published
    from edgehone.registry.shortcuts import Step, Wanted


def configure(publish: argparse.ArgumentParser) -> None:
    """Add the arguments about deltas."""
    publish.add_argument(
        "--delta", type=Path, action="append", default=[], metavar="FILE",
        help="leads from a live bundle to one of these; may be repeated",
    )  # fmt: skip
    how_many = publish.add_mutually_exclusive_group()
    how_many.add_argument(
        "--deltas", type=int, metavar="N", help="make deltas from the last N live versions (default 3)"
    )
    how_many.add_argument("--no-deltas", dest="deltas", action="store_const", const=0, help="make none")
    publish.add_argument("--delta-time", metavar="TIME", help="how long making deltas may take (default 1min)")


def wanted(args: argparse.Namespace) -> Wanted | None:
    """What the arguments want; None for no deltas but those given.

    Raises:
        InputError: a number or time that makes no sense.
    """
    from edgehone.bundle.delta import make_delta
    from edgehone.registry.shortcuts import BUDGET_S, VERSIONS, Wanted

    versions = VERSIONS if args.deltas is None else args.deltas
    if not 0 <= versions <= 100:
        raise InputError(f"deltas from {versions} versions", where="--deltas", do="give a number from 0 to 100")
    budget_s = BUDGET_S if args.delta_time is None else parse_duration_s(args.delta_time)
    if versions == 0:
        return None
    return Wanted(
        lambda old, new, worth: make_delta(old, new, worth=worth),
        versions=versions,
        budget_s=budget_s,
        watch=_watch(quiet=args.json),
    )


def refuse(args: argparse.Namespace) -> None:
    """Say that a prepared release takes no deltas any more.

    Raises:
        InputError: some are asked for.
    """
    if args.delta or args.deltas is not None or args.delta_time is not None:
        raise InputError("a prepared release is complete", do="leave the bundles and deltas out")


def lines(done: Published) -> list[str]:
    """One line for each delta, and for each that was left out."""
    ways = [f"  {way.path}: {share(way.size_bytes, way.share)} of {way.member}" for way in done.deltas]
    return [
        *ways,
        *(
            f"  no delta to {left.member} from version {left.from_version} ({left.from_member}): {left.why}"
            for left in done.left_out
        ),
    ]


def share(size_bytes: int, of_whole: float) -> str:
    """A size and its share of the whole bundle."""
    return f"{format_size(size_bytes)}, {100 * of_whole:.1f} %"


def _watch(*, quiet: bool) -> Callable[[int], AbstractContextManager[Step]]:
    @contextmanager
    def watch(total: int) -> Iterator[Step]:
        with TerminalProgress(quiet=quiet or total == 0) as progress:
            progress.stage("making deltas", total)
            yield progress.at

    return watch
