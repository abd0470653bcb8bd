"""The gate of a round: is the new file good enough to be released? Values in, a verdict in words out. Pure.

Judged is the compressed file that would ship, beside the one that ships now. Whatever has an interval is judged by its
bad end: a loss may not exceed epsilon even there, and a gain must be there even so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgehone.loop.policy import LoopPolicy


@dataclass(frozen=True)
class Check:
    """One thing that was asked: its name, whether it holds, a sentence, and the figures."""

    name: str
    ok: bool
    words: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one member."""

    member: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def why(self) -> str:
        """What decided, in words: all that failed, or all that was good."""
        failed = [check.words for check in self.checks if not check.ok]
        return f"{self.member}: {'; '.join(failed or [check.words for check in self.checks])}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"member": self.member, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}


def judge(members: Sequence[Mapping[str, Any]], policy: LoopPolicy) -> tuple[Verdict, ...]:
    """A verdict for each refreshed member.

    Args:
        members: `search.refresh.Refreshed` as JSON: slices "old" and "new", latency and size ratios.
        policy: of the task.
    """
    return tuple(_judge(member, policy) for member in members)


def _judge(member: Mapping[str, Any], policy: LoopPolicy) -> Verdict:
    old, new = member["slices"]["old"], member["slices"]["new"]
    loss, gain = old["drop"]["high_pp"], -new["drop"]["high_pp"]
    flips = old["flips"]
    checks = [
        Check(
            "old slice", loss <= policy.epsilon_pp,
            f"on old data it loses at most {loss:.2f} pp, {policy.epsilon_pp:g} pp are allowed",
            {"value_pp": old["drop"]["value_pp"], "high_pp": loss, "n": old["n"]},
        ),
        Check(
            "new slice", gain >= policy.least_gain_pp,
            f"on new data it gains {-new['drop']['value_pp']:.2f} pp, at least {gain:.2f} pp,"
            f" {policy.least_gain_pp:g} pp are asked for",
            {"value_pp": -new["drop"]["value_pp"], "low_pp": gain, "n": new["n"]},
        ),
        Check(
            "latency", member["latency_high"] <= policy.latency_ratio,
            f"it takes at most {member['latency_high']:.2f} times as long, {policy.latency_ratio:g} is allowed",
            {"ratio": member["latency"], "high": member["latency_high"]},
        ),
        Check(
            "size", member["size"] <= policy.size_ratio,
            f"it is {member['size']:.2f} times as large, {policy.size_ratio:g} is allowed", {"ratio": member["size"]},
        ),
    ]  # fmt: skip
    if flips is not None:
        words = f"it answers {flips:.1%} of old data differently, {policy.flip_limit:.1%} are allowed"
        checks.append(Check("flips", flips <= policy.flip_limit, words, {"share": flips, "n": old["n"]}))
    return Verdict(str(member["member"]), tuple(checks))
