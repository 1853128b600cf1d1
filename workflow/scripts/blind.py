"""Search a mosaic for sources that the catalogue does not have."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import BlindOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("blind", __doc__)
    parser.add_argument("image", type=Path, metavar="mosaic.fits")
    parser.add_argument("output", type=Path, metavar="OUT.csv")
    parser.add_argument("--catalog", type=Path, required=True, help="reference catalogue")
    add_options(parser, BlindOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.photometry.blind import search_mosaic

    sidecar = search_mosaic(args.image, args.output, args.catalog, from_args(args, BlindOptions))
    print(f"{args.output}: {sidecar.figures.n_sources} sources that the catalogue does not have")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
