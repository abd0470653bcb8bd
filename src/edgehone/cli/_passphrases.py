"""Where a command that signs has the passphrases of keys from: a file, the environment, or a person who is asked."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from typing import TYPE_CHECKING

from edgehone.errors import InputError

if TYPE_CHECKING:
    from edgehone.registry.keys import Passphrases


def passphrases(args: argparse.Namespace) -> Passphrases:
    """Those of `--passphrase-file` and EDGEHONE_PASSPHRASE; others are asked for at a terminal.

    Raises:
        InputError: the file cannot be read.
    """
    from edgehone.registry.keys import Passphrases

    known = [os.environ.get("EDGEHONE_PASSPHRASE", "")]
    if args.passphrase_file is not None:
        try:
            known.insert(0, args.passphrase_file.read_text().split("\n", 1)[0].rstrip("\r"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the file cannot be read: {error}", where="--passphrase-file") from error
    return Passphrases(known, getpass.getpass if sys.stdin.isatty() else None)
