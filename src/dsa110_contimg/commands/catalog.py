"""``contimg catalog``: make a reference catalogue."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..catalogs.surveys import SURVEYS, build, fetch, make_catalogue


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg catalog",
        description="Make a reference catalogue, from a CSV or from a survey by name: one checked "
        "Parquet file.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    from_csv = verbs.add_parser("build", help="check a CSV and write it as Parquet with units")
    from_csv.add_argument("source", type=Path, metavar="IN.csv")
    from_csv.add_argument("target", type=Path, metavar="OUT.parquet")
    from_csv.add_argument("--survey", default="", help="name of the survey the fluxes are from")
    from_net = verbs.add_parser("fetch", help="fetch a strip of a survey from VizieR")
    from_net.add_argument("survey", choices=SURVEYS)
    from_net.add_argument("target", type=Path, metavar="OUT.parquet")
    from_net.add_argument("--dec", type=float, required=True, help="middle of the strip, deg")
    from_net.add_argument("--width", type=float, default=6.0, help="its width, deg (default: 6)")
    from_net.add_argument("--ra", type=float, nargs=2, default=(0.0, 360.0), metavar="DEG")
    from_net.add_argument("--min-flux-jy", type=float, default=0.0, help="faintest source, Jy")
    from_net.add_argument(
        "--cache", type=Path, default=Path("~/.cache/contimg/catalogs").expanduser()
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Build or fetch a catalogue."""
    if args.verb == "build":
        table, inputs, reference = build(args.source, args.survey), [args.source], ""
    else:
        dec = max(args.dec - args.width / 2, -90.0), min(args.dec + args.width / 2, 90.0)
        table = fetch(args.survey, dec, tuple(args.ra), args.cache)
        table = table[table.flux_jy >= args.min_flux_jy]
        inputs, reference = [], SURVEYS[args.survey].reference
    parameters = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in ("source", "target")
    }
    count = make_catalogue(args.target, table, parameters, inputs, reference)
    print(f"{args.target}: {count} sources")
