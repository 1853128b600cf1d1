"""``contimg outdated``: list what the present release would make differently."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..operations.outdated import outdated
from .configuration import config_options, read_config

__all__ = ["argparser", "main"]


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg outdated",
        description="List the products that the present code, options and tools would make "
        "differently, by night and step. Open nights follow with the next run; closed nights stay "
        "as they are until they are named.",
    )
    parser.add_argument("nights", nargs="*", metavar="NIGHT", help="default: all")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """List what is outdated."""
    entries = outdated(read_config(args), args.nights or None)
    if args.json:
        print(json.dumps([asdict(e) | {"command": e.command} for e in entries], indent=1))
        return
    for entry in entries:
        why = ", ".join(f"{reason} ({n})" for reason, n in list(entry.reasons.items())[:5])
        purged = f", {entry.n_purged} of purged data stay" if entry.n_purged else ""
        when = f"'{entry.command}' makes them again" if entry.closed else "the next run does so"
        print(
            f"{entry.night or 'all nights':<10}  {entry.step:<18} {entry.n_products:5} products"
            f"{purged}: {why}; {when}"
        )
    total = sum(entry.n_products for entry in entries)
    print(f"{total} products would be made differently now")
