"""``contimg lineage``: show what a product or a light-curve point was made from."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reports.index import lineage, measurement_product, open_index


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg lineage",
        description="Show what a product or a light-curve point was made from.",
    )
    parser.add_argument("index", type=Path, help="index.sqlite")
    parser.add_argument("path", help="a product or input, or a source (with an epoch)")
    parser.add_argument("epoch", nargs="?", help="of a source: group id, night or MJD")
    return parser


def main(args: argparse.Namespace) -> None:
    """Show what a product or a light-curve point was made from."""
    db = open_index(args.index)
    path = measurement_product(db, args.path, args.epoch) if args.epoch else args.path
    show(lineage(db, path))


def show(rows: list[dict]) -> None:
    """Print files, what they were made from or for indented."""
    for row in rows:
        about = " ".join(filter(None, (row["step"], row["verdict"], row["created_utc"])))
        print(f"{'  ' * row['depth']}{row['path']}" + (f"  [{about}]" if about else ""))
