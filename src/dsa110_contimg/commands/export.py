"""``contimg export``: write the science products for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reports.export import export


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg export",
        description="Write VOTables, ObsCore records, coverage maps and DS9 regions.",
    )
    parser.add_argument("results", type=Path, help="results folder")
    parser.add_argument("out", type=Path, help="folder to write to")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the exports."""
    for path in export(args.results, args.out):
        print(path)
