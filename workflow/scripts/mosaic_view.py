"""Write the small copy of a mosaic that pages show."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("mosaic_view", __doc__)
    parser.add_argument("mosaic", type=Path, help="mosaic.fits")
    parser.add_argument("out", type=Path, help="mosaic.view.fits to write")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.reports.tile import shrink_mosaic

    shrink_mosaic(args.mosaic, args.out)


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
