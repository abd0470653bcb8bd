"""What a core does by itself about nodes that did not go back: it publishes their old model again, if it may sign.

It may where the keys of the task and of the registry are here and need no passphrase (`registry init --approve auto`).
Where they do, the event of the rollout says what stands in the way and which command a person runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from edgehone.fleet import rollouts
from edgehone.fleet.again import release_again
from edgehone.fleet.rollouts import CORE, Happened
from edgehone.registry.create import load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.store import Store
from edgehone.service.core import Core
from edgehone_agent.errors import EdgehoneError, TrustError

_LOG = logging.getLogger("edgehone.core")


def bring_home(core: Core, happened: Iterable[Happened], now_s: float) -> None:
    """Look for nodes that are stranded, and publish again what they had.

    Raises:
        StateError: the database cannot be written.
    """
    for one in happened:
        if one.event.what == "stranded":
            _bring_home(core, one.rollout, now_s)


def _bring_home(core: Core, rollout: str, now_s: float) -> None:
    try:
        ring = KeyRing([core.place.keys], Passphrases())
        store, anchor = Store(core.place.registry), load_anchor(ring)
        done = release_again(core.database, store, ring, rollout, now_s=now_s, actor=CORE, anchor=anchor)
    except EdgehoneError as error:
        words, do = f"this core cannot publish the old model by itself: {error.what}", error.do
        if isinstance(error, TrustError) or "passphrase" in error.what:  # a person who has the key can
            do = f"run `edgehone fleet rollout again {rollout} --core {core.place.folder.name}`"
        _LOG.warning("nodes are stranded after rollout %s; %s; %s", rollout, words, do)
        detail = {"words": f"{words}; {do}", "do": do}
        rollouts.note(core.database, rollout, "not released again", detail, now_s=now_s, actor=CORE)
        return
    for one in done:
        _LOG.info("version %d is published again as version %d", one.version, one.as_version)
