"""Image a field from the visibilities of its tiles together."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import JointOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("joint", __doc__)
    parser.add_argument("output", type=Path, metavar="joint_<name>.fits")
    parser.add_argument("--sets", type=Path, nargs="+", required=True, metavar="MS")
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="IMAGE.fits")
    parser.add_argument(
        "--field", type=float, nargs=3, required=True, metavar=("RA", "DEC", "RADIUS"), help="deg"
    )
    parser.add_argument("--threads", type=int, default=1, help="imager's threads")
    add_options(parser, JointOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.mosaics.joint import image_field

    options = from_args(args, JointOptions)
    sidecar = image_field(
        args.output, args.sets, args.images, tuple(args.field), options, args.threads
    )
    figures = sidecar.figures
    print(f"{args.output}: {figures.n_tiles} tiles, noise {figures.rms_jy:.2g} Jy/beam")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
