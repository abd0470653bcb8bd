"""What a node says about itself: a status for people and programs, and figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgehone_agent.serve.host import Metric

if TYPE_CHECKING:
    from edgehone_agent._live import Task


def task_status(task: Task, now_s: float) -> dict[str, Any]:
    """One task, JSON-able: what serves and since when, what is kept, what failed, what the watch says."""
    state, live = task.slots.state, task.live
    found: dict[str, Any] = {
        "ready": live is not None,
        "fault": task.fault,
        "previous": None if state.previous is None else asdict(state.previous),
        "trial": None if state.trial is None else asdict(state.trial),
        "failed": [asdict(failure) for failure in state.failed],
        "swaps": task.swaps,
        "roll_backs": task.roll_backs,
    }
    if live is None:
        return found
    manifest = live.loaded.manifest
    feed = live.feed
    return found | {
        "slot": None if state.current is None else state.current.slot,
        "version": manifest.version,
        "member": manifest.member,
        "digest": live.loaded.digest,
        "for_s": round(now_s - task.since_s, 1),
        "predictions": answered(task),
        "latency_us": live.loaded.latency_us,
        "session": live.loaded.models[0].session.describe(),
        "watch": None
        if feed is None or feed.watcher is None
        else {"level": feed.level, "dropped_rows": feed.dropped_rows, "fault": feed.fault},
        "risk": None if feed is None else feed.risk(),
        "learn": None if task.learner is None else task.learner.status(),
        "shadow": None if task.shadow is None else task.shadow.status(),
        "context": task.context,
    }


def answered(task: Task) -> int:
    """Calls that a task has answered since the process began."""
    return task.answered_before + (0 if task.live is None else task.live.answered)


def node_metrics(tasks: Iterable[Task], capture: Mapping[str, Any] | None) -> list[Metric]:
    """The node's figures, one family each, a sample per task."""
    tasks = list(tasks)

    def family(name: str, kind: Any, help: str, value: Any) -> Metric:
        found = ((task.name, value(task)) for task in tasks)
        return Metric(name, kind, help, tuple(({"task": name}, float(v)) for name, v in found if v is not None))

    metrics = [
        family("edgehone_ready", "gauge", "1 when the task has a model that answers.", lambda t: t.live is not None),
        family("edgehone_version", "gauge", "Version of the release that answers.", _version),
        family("edgehone_predictions_total", "counter", "Calls answered, in process and over the network.", answered),
        family("edgehone_infer_seconds_total", "counter", "Time inside infer.", lambda t: t.infer_seconds),
        family("edgehone_infer_total", "counter", "Calls of infer.", lambda t: t.infer_count),
        family("edgehone_swaps_total", "counter", "Bundles that took over.", lambda t: t.swaps),
        family("edgehone_roll_backs_total", "counter", "Bundles that had to go back.", lambda t: t.roll_backs),
        family("edgehone_failed_bundles", "gauge", "Bundles not tried again.", lambda t: len(t.slots.state.failed)),
        family("edgehone_watch_level", "gauge", "Level of the watch, 0 to 3.", lambda t: _feed(t, "level")),
        family(
            "edgehone_watch_dropped_rows_total", "counter", "Rows the watch had no time for.",
            lambda t: _feed(t, "dropped_rows"),
        ),
        family("edgehone_risk_level", "gauge", "Level of the errors that labels tell, 0 to 3.", _risk_level),
        *_label_metrics(tasks),
    ]  # fmt: skip
    numbers = {name: value for name, value in (capture or {}).items() if type(value) in (int, float)}
    return metrics + [
        Metric(f"edgehone_capture_{name}", "gauge", f"{name.replace('_', ' ')} of the capture.", (({}, float(value)),))
        for name, value in numbers.items()
    ]


def _label_metrics(tasks: list[Task]) -> list[Metric]:
    """Labelled rows, by whether they were drawn or sent by somebody, and those that were wrong."""
    found = {task.name: _risk(task) for task in tasks}

    def family(name: str, help: str, count: str) -> Metric:
        samples = [
            ({"task": task, "rows": rows}, float(risk[rows][count]))
            for task, risk in found.items()
            if risk is not None
            for rows in ("drawn", "sent")
        ]
        return Metric(name, "gauge", help, tuple(samples))  # no counters: another model starts at 0 again

    return [
        family("edgehone_labelled_rows", "Labels about the model that answers.", "rows"),
        family("edgehone_labelled_rows_wrong", "Those that say that its answer was wrong.", "wrong"),
    ]


def _risk(task: Task) -> dict[str, Any] | None:
    feed = None if task.live is None else task.live.feed
    return None if feed is None else feed.risk()


def _risk_level(task: Task) -> int | None:
    risk = _risk(task)
    return None if risk is None else risk["level"]


def _version(task: Task) -> int | None:
    return None if task.live is None else task.live.loaded.manifest.version


def _feed(task: Task, name: str) -> int | None:
    feed = None if task.live is None else task.live.feed
    return None if feed is None or feed.watcher is None else getattr(feed, name)
