"""The watch: does what a node sees and answers still look like what its model was validated on?

`bets` is the arithmetic, `detector` the evidence that grows row by row, `levels` when it is enough, `channels` what is
looked at, `watcher` all of it for one model. `risk` bets on losses in the same way: `labels` on those of labelled
feedback, `agreement` on how often two models differ. The reference is `wire.card`.
"""

from __future__ import annotations

from edgehone_agent.watch.agreement import Agreement
from edgehone_agent.watch.labels import Labels
from edgehone_agent.watch.levels import THRESHOLDS
from edgehone_agent.watch.risk import RiskDetector
from edgehone_agent.watch.state import merge
from edgehone_agent.watch.watcher import Watcher

__all__ = ["THRESHOLDS", "Agreement", "Labels", "RiskDetector", "Watcher", "merge"]
