"""The folder for data that was fetched: `EDGEHONE_CACHE`, else ~/.cache/edgehone."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder; it may not exist yet."""
    given = os.environ.get("EDGEHONE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "edgehone"
