"""Write the page of a tile, and its pictures."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("tile_report", __doc__)
    parser.add_argument("folder", type=Path, help="folder of the group")
    parser.add_argument("out", type=Path, help="<id>.html to write; pictures go beside it")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.reports.tile import write_tile

    print(f"{args.out}: {write_tile(args.folder, args.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
