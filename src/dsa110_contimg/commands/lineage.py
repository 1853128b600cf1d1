"""``contimg lineage``: show what a product or a light-curve point was made from."""

from __future__ import annotations

import argparse
import sqlite3
from pathlib import Path

from ..core.escape import line
from ..reports.index import lineage, measurement_product, open_index
from .configuration import config_options, read_config


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg lineage",
        description="Show what a product or a light-curve point was made from.",
    )
    parser.add_argument("path", help="a product or input, or a source (with an epoch)")
    parser.add_argument("epoch", nargs="?", help="of a source: group id, night or MJD")
    index_option(parser)
    return parser


def index_option(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that `index_of` reads."""
    parser.add_argument("--index", type=Path, help="(default: index.sqlite in the results folder)")
    config_options(parser)


def index_of(args: argparse.Namespace) -> sqlite3.Connection:
    """Open the index that is named, or that of the configured results folder."""
    return open_index(args.index or read_config(args).results / "index.sqlite")


def main(args: argparse.Namespace) -> None:
    """Show what a product or a light-curve point was made from."""
    db = index_of(args)
    path = measurement_product(db, args.path, args.epoch) if args.epoch else args.path
    show(lineage(db, path))


def show(rows: list[dict]) -> None:
    """Print files, what they were made from or for indented."""
    for row in rows:
        about = " ".join(filter(None, (row["step"], row["verdict"], row["created_utc"])))
        print(f"{'  ' * row['depth']}{line(row['path'])}" + (f"  [{about}]" if about else ""))
