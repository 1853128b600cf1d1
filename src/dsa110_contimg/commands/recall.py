"""``contimg recall``: show everything that was made with a file."""

from __future__ import annotations

import argparse

from ..reports.index import recall
from .lineage import index_of, index_option, show


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg recall", description="Show everything that was made with a file."
    )
    parser.add_argument("path", help="a product or input")
    index_option(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Show everything that was made with a file."""
    show(recall(index_of(args), args.path))
