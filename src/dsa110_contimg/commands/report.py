"""``contimg report``: write the pages over all nights."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reports.site import build_site


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg report",
        description="Write the pages over all nights: calendar, trends, variability plane, a page "
        "for each source.",
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=Path("results"),
        help="results folder (default: results)",
    )
    parser.add_argument("out", type=Path, nargs="?", help="folder to write (default: RESULTS/site)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the pages."""
    out = args.out or args.results / "site"
    made = build_site(args.results, out)
    print(f"{out / 'index.html'}: {made['nights']} nights, {made['sources']} sources")
