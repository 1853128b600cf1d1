"""Combine the nights into light curves and rank variable sources."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import LightcurveOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("lightcurves", __doc__)
    parser.add_argument("folder", type=Path, metavar="OUTDIR")
    parser.add_argument("tables", type=Path, nargs="+", metavar="PHOTOMETRY.csv")
    add_options(parser, LightcurveOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.lightcurves.assemble import make_lightcurves

    sidecar = make_lightcurves(args.folder, args.tables, from_args(args, LightcurveOptions))
    figures = sidecar.figures
    print(
        f"{figures.n_epochs} epochs, {figures.n_sources} sources, {figures.n_candidates} candidates"
    )


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
