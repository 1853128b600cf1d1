"""``contimg clean``: remove what killed jobs left behind."""

from __future__ import annotations

import argparse

from ..core.files import remove
from ..operations.leftovers import stale
from .configuration import at_home, config_options, read_config

__all__ = ["argparser", "main"]

# --- command line ---------------------------------------------------------------------------------


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg clean",
        description="Remove what killed jobs left behind. Lists it; deletes only with --yes.",
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """List, or delete, what `stale` finds."""
    left = stale(at_home(read_config(args)))
    for path in left:
        print(path)
        if args.yes:
            remove(path)
    verb = "removed" if args.yes else "to remove (repeat with --yes)"
    print(f"{len(left)} left-overs {verb}")
