"""The text that Prometheus reads."""

from __future__ import annotations

import math

from edgehone_agent.serve.host import Metric
from edgehone_agent.serve.metrics import render
from edgehone_agent.serve.traffic import Traffic


def test_names_labels_and_values_are_written_as_prometheus_wants_them() -> None:
    odd = 'a "b" \\ c\nd'
    metric = Metric("x_total", "counter", "Line one\nline \\ two", (({"task": odd, "n": "1"}, 3.0), ({}, 0.25)))
    assert render([metric]).decode() == (
        "# HELP x_total Line one\\nline \\\\ two\n# TYPE x_total counter\n"
        'x_total{task="a \\"b\\" \\\\ c\\nd",n="1"} 3\nx_total 0.25\n'
    )


def test_values_that_are_no_plain_numbers() -> None:
    values = (math.inf, -math.inf, math.nan, 1e300, -2.0)
    lines = render([Metric("x", "gauge", "h", tuple(({}, value) for value in values))]).decode().splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["+Inf", "-Inf", "NaN", "1e+300", "-2"]


def test_a_histogram_counts_up_to_its_count() -> None:
    traffic = Traffic()
    for seconds in (0.00005, 0.0001, 0.3, 99.0):
        traffic.record("infer", 200, seconds)
    traffic.record("live", 200)
    text = render(traffic.metrics(5)).decode()
    for line in (
        "# TYPE edgehone_http_infer_seconds histogram",
        'edgehone_http_infer_seconds_bucket{le="0.0001"} 2',
        'edgehone_http_infer_seconds_bucket{le="0.25"} 2',
        'edgehone_http_infer_seconds_bucket{le="0.5"} 3',
        'edgehone_http_infer_seconds_bucket{le="+Inf"} 4',
        "edgehone_http_infer_seconds_count 4",
        "edgehone_http_infer_seconds_sum 99.30015",
        'edgehone_http_requests_total{route="live",status="200"} 1',
        "edgehone_http_in_flight 5",
    ):
        assert line in text.splitlines()
