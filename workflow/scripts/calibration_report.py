"""Write the page of a calibration."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("calibration_report", __doc__)
    parser.add_argument("folder", type=Path, help="folder of the group it was solved on")
    parser.add_argument("out", type=Path, help="<id>.solutions.html to write")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.reports.tile import write_calibration

    print(f"{args.out}: {write_calibration(args.folder, args.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
