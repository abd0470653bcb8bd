"""Read JSON that came from outside, so that any two readers see the same in it."""

from __future__ import annotations

import json
import math
from typing import Any

from edgehone_agent.errors import BundleError


def read_json(content: bytes, where: str) -> Any:
    """What a JSON text holds. Any two readers must see the same in it, and it must go out as JSON again.

    Raises:
        BundleError: no UTF-8, no JSON, nested too deep, a name given twice, a number that is not finite or too long, or
            half a surrogate pair.
    """
    try:
        data = json.loads(content.decode(), parse_constant=_finite, parse_float=_finite, object_pairs_hook=_distinct)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"this is no JSON that can be used: {error}", where=where) from error
    return data


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a name is given twice")
    return data
