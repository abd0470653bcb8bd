"""`edgehone-agent run`: serve, watch, and keep up to date until it is told to stop."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgehone_agent.cli._terminal import add_state

help = "serve the models of this node and keep them up to date"
examples = (
    "edgehone-agent run --registry https://models.example/edgehone --root root.json --task digits",
    "edgehone-agent run --config agent.toml --log json",
    "edgehone-agent run --state node --listen 127.0.0.1:9000",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (TOML); flags count over it")
    parser.add_argument("--registry", metavar="URL", help="where releases come from: http(s)://, file:// or a folder")
    parser.add_argument("--root", type=Path, metavar="FILE", help="root.json of the registry, brought here by hand")
    parser.add_argument("--task", action="append", metavar="NAME", help="a task to serve; may be repeated")
    add_state(parser)
    parser.add_argument(
        "--listen", action="append", metavar="ADDRESS", help="HOST:PORT or unix:PATH; may be repeated (127.0.0.1:8000)"
    )
    parser.add_argument("--poll", type=float, metavar="SECONDS", help="time between two looks (default 300)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each model (default 1)")
    parser.add_argument("--sessions", type=int, metavar="N", help="callers answered at once per task (default 1)")
    parser.add_argument("--log", choices=("text", "json"), help="form of the log on standard error (default text)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default info")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    from edgehone_agent.config import read_settings
    from edgehone_agent.logs import set_up_logs

    flags = {
        "registry": args.registry,
        "root": args.root,
        "tasks": None if args.task is None else tuple(args.task),
        "state": args.state,
        "serve.listen": None if args.listen is None else tuple(args.listen),
        "poll_s": args.poll,
        "threads": args.threads,
        "sessions": args.sessions,
        "log": args.log,
        "log_level": args.log_level,
    }
    settings = read_settings(args.config, flags)
    set_up_logs(settings.log, settings.log_level)
    from edgehone_agent.agent import run_agent

    run_agent(settings)
    return 0
