"""``contimg recall``: show everything that was made with a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reports.index import open_index, recall
from .lineage import show


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg recall", description="Show everything that was made with a file."
    )
    parser.add_argument("index", type=Path, help="index.sqlite")
    parser.add_argument("path", help="a product or input")
    return parser


def main(args: argparse.Namespace) -> None:
    """Show everything that was made with a file."""
    show(recall(open_index(args.index), args.path))
