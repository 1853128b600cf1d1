"""Draw light curves and cut-outs of the candidates, a PNG each."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("candidate_plots", __doc__)
    parser.add_argument("folder", type=Path, help="folder of the light curves")
    parser.add_argument("output", type=Path, help="folder of the plots")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.reports.candidate_plots import plot_candidates

    print(f"{args.output}: {plot_candidates(args.folder, args.output)} candidates")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
