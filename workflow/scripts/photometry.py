"""Measure every catalogued source in an image, detected or not."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import PhotometryOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("photometry", __doc__)
    parser.add_argument("image", type=Path, help="<id>.image.fits or mosaic.fits")
    parser.add_argument("output", type=Path, metavar="OUT.csv")
    parser.add_argument("--catalog", type=Path, required=True, help="reference catalogue")
    add_options(parser, PhotometryOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.photometry.measure import measure_image

    options = from_args(args, PhotometryOptions)
    sidecar = measure_image(args.image, args.output, args.catalog, options)
    figures = sidecar.figures
    print(f"{args.output}: {figures.n_detected} of {figures.n_sources} sources detected")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
