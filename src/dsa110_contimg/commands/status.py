"""``contimg status``: say how things are."""

from __future__ import annotations

import argparse
import json

from ..core.layout import Layout
from ..operations.snapshot import render, snapshot
from .configuration import at_home, campaigns, config_options, read_config

__all__ = ["argparser", "main"]

# --- command line ---------------------------------------------------------------------------------


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg status",
        description="Say how things are: what there is to do and what was done, the age of the "
        "last data and of the last calibration, failures, disk; then each group of open nights.",
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Print a snapshot."""
    config = at_home(read_config(args))
    state = snapshot(config)
    if args.json:
        print(json.dumps(state, indent=1))
        return
    print("\n".join(render(state)))
    if names := campaigns(Layout(config.results)):
        print(f"campaigns: {', '.join(names)}")
    for group in state["group_list"]:
        dec = "" if group["dec_app_deg"] is None else f"{group['dec_app_deg']:+.2f}"
        print(
            f"{group['night']}  {group['id']}  {group['state']:<11} "
            f"{group['subbands']:2} subbands  dec {dec:>6}  {'; '.join(group['notes'])}".rstrip()
        )
    for file in state["rejected"]:
        print(f"left out: {file['path']}: {file['reason']}")
