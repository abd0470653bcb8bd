"""How well a sum of layer prices tells the latency of a network: 50 networks, cut at random from two.

ResNet-56 for 32x32 pictures and MobileNetV2-like blocks lose random branches and random widths in steps of 8. Each is
exported in int8 and timed here against the network of full width, and priced as the sum of its layers; the sum of the
full network is fitted to its own latency once (one overhead term), as a study does by its anchor. Weights are random:
latency does not depend on them.

    python benchmarks/price_list.py            writes benchmarks/results/price_list.json
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cifar_task import Net
from loop_parts import arguments, write_result

from edgehone.exporters import EXPORTERS
from edgehone.graph.branches import branches, without
from edgehone.graph.cut import cut
from edgehone.graph.fold import deploy
from edgehone.graph.groups import channel_groups
from edgehone.graph.ir import Graph
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.measure.timer import LocalTimer
from edgehone.search.allocate import widths_of
from edgehone.search.prices import Prices, ops
from edgehone.testing.networks import NETWORKS
from edgehone_agent.measure.latency import ratio

NETWORKS_CUT = {"resnet56": lambda: Net(9), "mobilenet-v2": NETWORKS["mobilenet-v2"]}
EACH, ROUNDS, SEED = 25, 31, 0


def random_cut(graph: Graph, draw: np.random.Generator) -> Graph:
    """A network with random widths, without a random part of its branches."""
    keep = {}
    for group in channel_groups(graph):
        width = int(draw.choice(widths_of(group)))
        keep[group.name] = tuple(sorted(draw.choice(group.width, width, replace=False).tolist()))
    names = [branch.name for branch in branches(graph)]
    leaving = draw.choice(names, int(draw.integers(0, len(names))), replace=False) if names else ()
    return without(cut(graph, keep), [str(name) for name in leaving])


def file_of(graph: Graph) -> bytes:
    """Its int8 .tflite file."""
    return EXPORTERS.get("tflite").export(quantize(deploy(graph), [torch.rand(4, *graph.input_shape[1:])]))


def main() -> None:
    """Cut, price, time, compare."""
    options, began = arguments(__doc__), time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    timer, rows = LocalTimer(), []
    each = 3 if options.quick else EACH
    with tempfile.TemporaryDirectory() as folder:
        prices = Prices(timer.time, timer.fingerprint(), Path(folder) / "prices.json")
        for name, build in NETWORKS_CUT.items():
            graph = trace(build().eval(), torch.rand(2, 3, 32, 32))
            full, draw = file_of(graph), np.random.default_rng(SEED)
            prices.fill(ops(deploy(graph)))
            sum_full = prices.network_us(deploy(graph))
            for number in range(each):
                smaller = random_cut(graph, draw)
                started = time.monotonic()
                layers = prices.fill(ops(deploy(smaller)))
                pricing_s = time.monotonic() - started
                found = timer.time({"cut": file_of(smaller), "full": full}, ROUNDS)
                measured = ratio(found["cut"], found["full"])
                told = prices.network_us(deploy(smaller)) / sum_full
                rows.append(
                    {"network": name, "number": number, "measured": measured.value, "low": measured.low,
                     "high": measured.high, "told": told, "error": told / measured.value - 1,
                     "new_layers": layers, "pricing_s": round(pricing_s, 2)}
                )  # fmt: skip
                print(f"{name} {number}: measured {measured.value:.3f} of full, told {told:.3f}")
        table = len(prices)
    errors = {name: [abs(row["error"]) for row in rows if row["network"] == name] for name in NETWORKS_CUT}
    result = {
        "seeds": [SEED],
        "rounds": ROUNDS,
        "layers_in_table": table,
        "median_error": float(np.median([abs(row["error"]) for row in rows])),
        "median_error_by_network": {name: float(np.median(found)) for name, found in errors.items()},
        "worst_error": float(max(abs(row["error"]) for row in rows)),
        "rows": rows,
    }
    write_result("price_list", options, __doc__, result, began)
    print(f"median error {100 * result['median_error']:.1f} %, worst {100 * result['worst_error']:.1f} %")


if __name__ == "__main__":
    main()
