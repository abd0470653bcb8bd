"""Figures as text that Prometheus reads: exposition format 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from edgehone_agent.serve.host import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(metrics: Iterable[Metric]) -> bytes:
    """The text of `metrics`, one block each, in the order given."""
    return "".join(line for metric in metrics for line in _block(metric)).encode()


def _block(metric: Metric) -> Iterator[str]:
    help_text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {metric.name} {help_text}\n# TYPE {metric.name} {metric.kind}\n"
    for labels, value in metric.samples:
        if metric.kind != "histogram":
            yield f"{metric.name}{_labels(labels)} {_number(value)}\n"
        elif labels.get("le") == "sum":
            yield f"{metric.name}_sum{_labels(labels, without='le')} {_number(value)}\n"
        else:
            yield f"{metric.name}_bucket{_labels(labels)} {_number(value)}\n"
            if labels.get("le") == "+Inf":
                yield f"{metric.name}_count{_labels(labels, without='le')} {_number(value)}\n"


def _labels(labels: Mapping[str, str], without: str = "") -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items() if name != without]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
