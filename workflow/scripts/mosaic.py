"""Co-add tiles into a mosaic with its maps of noise, weight and time."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import MosaicOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("mosaic", __doc__)
    parser.add_argument("output", type=Path, metavar="OUT.fits")
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE.fits", help="<id>.image.fits"
    )
    add_options(parser, MosaicOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.mosaics.mosaic import make_mosaic

    sidecar = make_mosaic(args.images, args.output, from_args(args, MosaicOptions))
    for entry in sidecar.figures.left_out:
        print(f"left out {entry.tile}: {entry.reason}")
    print(f"{args.output}: {sidecar.figures.n_tiles} tiles, {sidecar.verdict}")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
