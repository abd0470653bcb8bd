"""`edgehone core start`: the process that serves. Nothing here imports torch."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from typing import TYPE_CHECKING

from edgehone.service.settings import load_place

if TYPE_CHECKING:
    from edgehone.service.core import Core
    from edgehone.service.jobs import Driver


def start(args: argparse.Namespace) -> int:
    """Serve until a signal; return the exit code.

    Raises:
        EdgehoneError: the folder, an address or the database cannot be used.
    """
    from edgehone.service.serving import serve
    from edgehone.service.upkeep import Upkeep

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    for noisy in ("uvicorn", "asyncio", "alembic", "tuf"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    place = load_place(args.core)

    def ready(bound: tuple[tuple[str, int], ...]) -> None:
        addresses = [f"https://{f'[{host}]' if ':' in host else host}:{port}" for host, port in bound]
        if args.json:
            print(json.dumps({"ready": addresses}), flush=True)
        else:
            print(f"core {place.folder} serves {', '.join(addresses)}; http:// works on this machine", flush=True)

    asyncio.run(serve(place, listen=args.listen, ready=ready, drivers=(_loop, Upkeep)))
    return 0


def _loop(core: Core) -> Driver:
    """The closed loop of a core; what it imports is not there before."""
    from edgehone.loop.rounds import Site
    from edgehone.loop.tick import Loop

    place = core.place
    return Loop(
        Site(core.database, core.blobs, place.blobs_url, place.folder / "rounds", place.registry, place.keys)
    )  # fmt: skip
