"""Bring the SQLite index of all products up to date, from their sidecars."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("index", __doc__)
    parser.add_argument("results", type=Path, help="results folder")
    parser.add_argument("out", type=Path, help="index.sqlite to write")
    parser.add_argument("--rebuild", action="store_true", help="read every night again")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.core.sidecar import vouch
    from dsa110_contimg.reports.index import build_index

    rows = build_index(args.results, args.out, args.rebuild)
    vouch("index", args.out, [args.results / "lightcurves" / "lightcurves.parquet"])
    shown = ("groups", "calibrations", "images", "mosaics", "sources", "measurements", "candidates")
    print(f"{args.out}: " + ", ".join(f"{rows[table]} {table}" for table in shown))


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
