"""The decisions about versions and times: floors and verified metadata in, a verdict or new floors out. No files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgehone_agent._floors import Floors, Mark
from edgehone_agent.errors import TrustError
from edgehone_agent.releases import highest_version

if TYPE_CHECKING:
    from tuf.api.metadata import Root

    from edgehone_agent._tuf import Verified

_DAY_S = 86400.0


def stated_period_s(root: Root, role: str) -> float:
    """How long metadata of a role holds when it is signed, as a verified root states it; 0 when it does not."""
    stated = root.unrecognized_fields.get("x-edgehone")
    days = stated.get("expiry_days") if isinstance(stated, dict) else None
    try:
        period_s = float(days[role]) * _DAY_S if isinstance(days, dict) else 0.0
    except (KeyError, TypeError, ValueError):
        return 0.0
    return period_s if 0 < period_s < 1e10 else 0.0


def refuse_older(floors: Floors, marks: Mapping[str, Mark]) -> None:
    """Refuse metadata that is older than what was seen before under the same keys.

    Raises:
        TrustError: it is.
    """
    for name, mark in marks.items():
        known = floors.roles.get(name)
        if known is not None and known.keys == mark.keys and mark.version < known.version:
            raise TrustError(
                f"the registry shows {name} version {mark.version}, and version {known.version} was seen before",
                where=f"{name}.json",
                do="have the registry and the network looked at: an older state is being replayed",
            )


def raised(floors: Floors, found: Verified, marks: Mapping[str, Mark], floor_s: float) -> Floors:
    """The floors after a state was verified.

    What a key that was replaced had signed is a floor as far as the new key knows of it: the owner never releases below
    what was released before, and a version that the owner does not know of is a thief's.

    Args:
        floors: those before.
        found: the state.
        marks: its versions, and by whose keys they were signed.
        floor_s: the time floor now, which may have grown while this node ran.
    """
    from edgehone_agent._tuf import TIMESTAMP

    keys = marks[TIMESTAMP].keys
    same = keys == floors.time_keys
    # The longest period counts: while a registry changes it, a timestamp may still be of the longer one.
    period_s = max(stated_period_s(found.root, TIMESTAMP), floors.period_s if same else 0.0)
    signed_s = found.timestamp.expires.timestamp() - period_s if period_s else 0.0
    task, keys_now = found.delegation.name.removeprefix("task-"), marks[found.delegation.name].keys
    tasks = dict(floors.tasks)
    taken = tasks.get(task)
    if taken is not None and taken.keys not in ("", keys_now):
        tasks[task] = Mark(keys_now, min(taken.version, highest_version(found.role)))
    return replace(
        floors,
        time_s=max(signed_s, floor_s) if same else signed_s,
        time_keys=keys,
        period_s=period_s,
        roles={**floors.roles, **marks},
        tasks=tasks,
    )
