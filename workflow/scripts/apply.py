"""Apply a calibration, and average as far as smearing allows."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import ApplyOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("apply", __doc__)
    parser.add_argument("ms", type=Path, help="converted tile")
    parser.add_argument("out", type=Path, help="<id>.cal.ms to write")
    parser.add_argument(
        "--candidate",
        type=Path,
        action="append",
        required=True,
        metavar="PREFIX",
        help="calibration (PREFIX.kcal, .bcal, .gcal); repeat in order of preference",
    )
    add_options(parser, ApplyOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.calibration.apply import apply_calibration

    options = from_args(args, ApplyOptions)
    sidecar = apply_calibration(args.ms, args.out, args.candidate, options)
    print(f"{args.out}: {sidecar.summary}")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
