"""``contimg clean``: remove what killed jobs left behind."""

from __future__ import annotations

import argparse

from ..operations.leftovers import discard, stale
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
    found = stale(at_home(read_config(args)))
    print(*found, sep="\n", end="\n" if found else "")
    if args.yes:
        print(f"{sum(map(discard, found))} left-overs removed")
    else:
        print(f"{len(found)} left-overs to remove (repeat with --yes)")
