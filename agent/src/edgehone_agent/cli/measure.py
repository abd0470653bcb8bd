"""`edgehone-agent measure`: take model files from `edgehone measure --node`, and measure them on this node."""

from __future__ import annotations

import argparse
from pathlib import Path

help = "measure model files that others send, on this node, until it is told to stop"
examples = (
    "edgehone-agent measure",
    "edgehone-agent measure --listen 0.0.0.0:7444 --token-file token --tls-cert node.pem --tls-key node.key",
    "edgehone-agent measure --queue 2 --limit 120 --max-bytes 8000000",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to listen (default 127.0.0.1:7444)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="its first line is what clients must show; needed beyond this machine",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="this node's certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
    parser.add_argument("--queue", type=int, metavar="N", help="jobs that may wait (default 4)")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="for one job (default 300)")
    parser.add_argument("--max-bytes", type=int, metavar="N", help="files of one job together (default 33554432)")
    parser.add_argument("--log", choices=("text", "json"), default="text", help="form of the log on standard error")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    import asyncio
    import signal

    from edgehone_agent.errors import ConfigError
    from edgehone_agent.logs import set_up_logs
    from edgehone_agent.measure.service import MeasuringSettings, serve_measuring
    from edgehone_agent.measure.tokens import read_token

    if (args.tls_cert is None) != (args.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key go together", do="give both, or none")
    given = {"listen": args.listen, "queue": args.queue, "limit_s": args.limit, "max_bytes": args.max_bytes}
    settings = MeasuringSettings(
        **{name: value for name, value in given.items() if value is not None},
        token=None if args.token_file is None else read_token(args.token_file),
        certificate=None if args.tls_cert is None else (args.tls_cert, args.tls_key),
    )
    set_up_logs(args.log, "info")

    async def until_told() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve_measuring(settings, stop=stop)

    asyncio.run(until_told())
    return 0
