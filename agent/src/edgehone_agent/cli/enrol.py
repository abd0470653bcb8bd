"""`edgehone-agent enrol`: let this node be known to a core, with a token that the core printed."""

from __future__ import annotations

import argparse

from edgehone_agent.cli._terminal import add_json, add_state, say, say_json, state_of

help = "let this node be known to a core, with a token that `edgehone core token` printed"
examples = (
    "edgehone-agent enrol EH1-... --core https://core.example:7443 --task digits",
    "edgehone-agent enrol - --core https://core.example:7443 --name camera-1",
    "edgehone-agent enrol EH1-... --core https://core.example:7443 --again",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("token", metavar="TOKEN", help="the line that the core printed; - reads standard input")
    parser.add_argument("--core", required=True, metavar="URL", help="address of the core, https://HOST:PORT")
    parser.add_argument("--name", default="", metavar="NAME", help="what the node would like to be called")
    parser.add_argument("--task", action="append", default=[], metavar="NAME", help="a task to serve; may be repeated")
    parser.add_argument("--again", action="store_true", help="become a new node, with a new key, whatever was before")
    add_state(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Enrol, and say what to do next."""
    import sys
    import time

    from edgehone_agent.errors import InputError
    from edgehone_agent.releases import checked_task
    from edgehone_agent.uplink.enrol import enrol
    from edgehone_agent.uplink.identity import about

    if len(args.name) > 100 or not (args.name.isprintable()):
        raise InputError("this is no name for a node", where="--name", do="write up to 100 printable characters")
    for task in args.task:
        checked_task(task)
    state = state_of(args)
    token = sys.stdin.readline(1000) if args.token == "-" else args.token
    identity, is_new = enrol(state, token, args.core, name=args.name, tasks=tuple(args.task), again=args.again)
    told = about(identity, time.time())
    if args.json:
        say_json({**told, "new": is_new, "tags": dict(identity.tags), "tasks": list(identity.tasks)})
        return 0
    called = f" ({identity.name})" if identity.name else ""
    say(f"this is node {identity.node}{called} of {identity.core}" + ("" if is_new else ", as before"))
    if told["certificate_days"] <= 0:
        say("its certificate has run out: the agent gets another when it reaches the core")
    else:
        say(f"its certificate holds {told['certificate_days']:.1f} days and is renewed by the agent")
    say(f"now run: edgehone-agent run --state {state}")
    return 0
