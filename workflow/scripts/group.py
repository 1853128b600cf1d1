"""Combine the subbands of a group into one virtual UVH5 file."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("group", __doc__)
    parser.add_argument("out", type=Path, help="group file to write, group_<id>.hdf5")
    parser.add_argument("files", nargs="+", type=Path, help="the subbands' files")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.conversion.group_file import make_group

    make_group(args.out, args.files)


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
