"""Solve delay, bandpass and gains on a calibrator transit."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import CalibrationOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("calibrate", __doc__)
    parser.add_argument("ms", type=Path, help="converted tile that holds the transit")
    parser.add_argument("prefix", type=Path, help="tables become PREFIX.kcal, .bcal, .gcal")
    parser.add_argument("--calibrator", required=True, help="name of the calibrator")
    parser.add_argument("--calibrators", type=Path, help="table of further calibrators (CSV)")
    parser.add_argument("--catalog", type=Path, help="reference catalogue: the neighbours")
    add_options(parser, CalibrationOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.calibration.solve import calibrate
    from dsa110_contimg.catalogs.calibrators import find_calibrator

    sidecar = calibrate(
        args.ms,
        args.prefix,
        find_calibrator(args.calibrator, args.calibrators),
        from_args(args, CalibrationOptions),
        calibrators=args.calibrators and args.calibrators.absolute(),
        catalog=args.catalog and args.catalog.absolute(),
    )
    print(f"{args.prefix}: {sidecar.summary}")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
