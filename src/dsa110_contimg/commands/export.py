"""``contimg export``: write the science products for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reports.export import export
from .configuration import config_options, results_of, results_option


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg export",
        description="Write VOTables, ObsCore records, coverage maps and DS9 regions.",
    )
    results_option(parser)
    parser.add_argument("out", type=Path, help="folder to write to")
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the exports."""
    for path in export(results_of(args), args.out):
        print(path)
