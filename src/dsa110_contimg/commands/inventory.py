"""``contimg inventory``: list the groups in the incoming folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..conversion.inventory import Inventory, take_inventory
from ..core.config import add_options, from_args
from ..core.options import InventoryOptions
from .configuration import config_options, read_config


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg inventory", description="List the groups in the incoming folder."
    )
    parser.add_argument(
        "incoming",
        type=Path,
        nargs="?",
        help="folder with *_sbNN.hdf5 (default: that of the configuration)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--cache", type=Path, help="file to keep what the headers said")
    config_options(parser)
    add_options(parser, InventoryOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the inventory."""
    config = read_config(args)
    given = from_args(args, InventoryOptions).model_dump(exclude_unset=True)
    options = config.inventory.model_copy(update=given)
    inventory = take_inventory(args.incoming or config.incoming, options, args.cache)
    if args.json:
        print(json.dumps(inventory.to_dict(), indent=1))
    else:
        _print(inventory)


def _print(inventory: Inventory) -> None:
    print(f"{'group':<16} {'state':<11} {'files':>5} {'ints':>5} {'dec':>7} {'ra':>8}  remarks")
    for g in inventory.groups:
        dec, ra = (f"{x:.2f}" if x is not None else "-" for x in (g.dec_app_deg, g.ra_deg))
        print(
            f"{g.id:<16} {g.state:<11} {len(g.files):>5} {g.n_integrations:>5} {dec:>7} {ra:>8}  "
            + "; ".join(g.reasons)
        )
    for event in inventory.events:
        amount = f"{event['seconds']} s" if event["kind"] == "gap" else f"{event['degrees']:+} deg"
        print(f"{event['kind']}: {amount} between {event['before']} and {event['after']}")
    for item in inventory.rejected:
        print(f"left out: {item['path']}: {item['reason']}")
