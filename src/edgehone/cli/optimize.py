"""`edgehone optimize`: the product's main job from the command line."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from edgehone.errors import EXIT_BUDGET_UNMET

if TYPE_CHECKING:
    from edgehone.measure.remote import MeasuringNode

help = "make a family of smaller, faster versions of a trained network"
examples = [
    "edgehone optimize digits -o digits-family",
    "edgehone optimize my_task.py --device raspberry-pi-4 --max-latency 2ms --max-size 200kB --max-drop 1pp",
    "edgehone optimize my_task.py:gestures --members 4 --time 20min -o gestures",
    "edgehone optimize my_task.py --device raspberry-pi-4 --node https://pi.local:7444 --token-file token --ca pi.pem",
    "edgehone optimize my_task.py:gestures --members 4 --time 20min -o gestures --resume",
]

_PASSED = (
    "device", "max_latency", "max_size", "max_memory", "max_drop", "members", "time", "output", "resume", "seed",
    "criterion", "allocation", "epochs", "qat_epochs", "observer", "l1", "l2", "dropout",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("task", metavar="TASK", help="a built-in task, or path/to/task.py[:name]")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for the results (default: NAME-family)")
    parser.add_argument("--resume", action="store_true", help="go on with the study that the folder holds")
    parser.add_argument("--device", default="this-machine", metavar="NAME", help="a device profile (edgehone devices)")
    there = parser.add_argument_group("measure on a node (edgehone-agent measure) instead of here")
    there.add_argument("--node", metavar="URL", help="the address of its measuring service")
    there.add_argument("--token-file", type=Path, metavar="FILE", help="the token that the node was started with")
    there.add_argument("--ca", type=Path, metavar="FILE", help="who signed the node's certificate, or itself (PEM)")
    there.add_argument("--fingerprint", metavar="SHA256", help="the node's certificate, instead of --ca")
    limits = parser.add_argument_group("limits that members must hold")
    limits.add_argument("--max-latency", metavar="TIME", help="one inference, like 2ms or 350us")
    limits.add_argument("--max-size", metavar="SIZE", help="model file, like 200kB or 64KiB")
    limits.add_argument("--max-memory", metavar="SIZE", help="working memory of one inference")
    limits.add_argument("--max-drop", metavar="POINTS", help="loss of the metric at worst, like 1pp")
    study = parser.add_argument_group("the study")
    study.add_argument("--members", type=int, default=3, metavar="N", help="versions wanted (default 3)")
    study.add_argument("--time", metavar="TIME", help="wall time for everything, like 20min")
    study.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default 0)")
    study.add_argument("--criterion", default="l2", metavar="NAME", help="which channels matter (default l2)")
    study.add_argument(
        "--allocation",
        choices=("knapsack", "global", "uniform"),
        default="global",
        help="what leaves: branches and widths by a knapsack over measured prices, or widths alone (default global)",
    )
    study.add_argument("--epochs", type=float, metavar="N", help="of each recovery (default: the task's)")
    study.add_argument("--qat-epochs", type=float, default=0.0, metavar="N", help="of quantization-aware training")
    study.add_argument("--observer", default="minmax", metavar="NAME", help="how int8 ranges are chosen")
    study.add_argument("--l1", type=float, metavar="X", help="L1 penalty in recoveries")
    study.add_argument("--l2", type=float, metavar="X", help="L2 penalty (weight decay) in recoveries")
    study.add_argument("--dropout", type=float, metavar="RATE", help="rate of the network's dropout layers")
    parser.add_argument("--json", action="store_true", help="print the study's record as JSON")


def run(args: argparse.Namespace) -> int:
    """Run a study; 3 when no member holds the budget."""
    from edgehone.cli._progress import TerminalProgress
    from edgehone.record import to_json

    with TerminalProgress() as progress, _node(args) as node:
        progress.stage("starting")
        from edgehone.search.study import optimize

        study = optimize(args.task, progress=progress, node=node, **{name: getattr(args, name) for name in _PASSED})
    if args.json:
        print(json.dumps(to_json(study.record)))
    else:
        from rich.console import Console

        from edgehone.report.terminal import text

        console = Console(width=None if os.isatty(1) else 120)
        console.print(text(study.record, console.width))
        console.print(f"\nlook at it: {study.report}", highlight=False, soft_wrap=True)
    return 0 if study.met else EXIT_BUDGET_UNMET


def _node(args: argparse.Namespace) -> AbstractContextManager[MeasuringNode | None]:
    """The measuring service that --node names, None without it."""
    from edgehone.errors import InputError
    from edgehone.measure.remote import MeasuringNode
    from edgehone_agent.measure.tokens import read_token

    if args.node is None:
        given = [name for name in ("token_file", "ca", "fingerprint") if getattr(args, name) is not None]
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} is of use with --node only", do="give --node URL")
        return nullcontext()
    token = None if args.token_file is None else read_token(args.token_file)
    return MeasuringNode(args.node, token=token, cafile=args.ca, fingerprint=args.fingerprint)
