"""Convert a group to a flagged Measurement Set."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import ConversionOptions, FlaggingOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("convert", __doc__)
    parser.add_argument("group", type=Path, help="group file, group_<id>.hdf5")
    parser.add_argument("ms", type=Path, help="Measurement Set to write")
    add_options(parser, ConversionOptions)
    add_options(parser, FlaggingOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.conversion.convert import convert

    convert(
        args.group, args.ms, from_args(args, ConversionOptions), from_args(args, FlaggingOptions)
    )


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
