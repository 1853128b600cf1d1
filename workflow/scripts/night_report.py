"""Write the page of a night."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("night_report", __doc__)
    parser.add_argument("folder", type=Path, help="results/nights/<YYYY-MM-DD>")
    parser.add_argument("out", type=Path, help="report.html to write")
    parser.add_argument("--lightcurves", type=Path, help="folder of the light curves")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.reports.night import write_night

    size = write_night(args.folder, args.out, args.lightcurves)
    print(f"{args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
