"""``contimg report``: write the pages over all nights."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reports.site import build_site
from .configuration import config_options, results_of, results_option


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg report",
        description="Write the pages over all nights: calendar, trends, variability plane, a page "
        "for each source.",
    )
    results_option(parser)
    parser.add_argument("out", type=Path, nargs="?", help="folder to write (default: RESULTS/site)")
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the pages."""
    results = results_of(args)
    out = args.out or results / "site"
    made = build_site(results, out)
    print(f"{out / 'index.html'}: {made['nights']} nights, {made['sources']} sources")
