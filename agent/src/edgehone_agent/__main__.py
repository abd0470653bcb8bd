"""Entry point of the `edgehone-agent` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run one command, and return its exit code."""
    parser = argparse.ArgumentParser(prog="edgehone-agent", description="Run signed models on this node.")
    parser.parse_args(argv)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
