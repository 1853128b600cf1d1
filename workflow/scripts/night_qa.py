"""Judge a night from the sidecars of its products."""

import argparse
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import QaOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("night_qa", __doc__)
    parser.add_argument("folder", type=Path, help="results/nights/<YYYY-MM-DD>")
    parser.add_argument("out", type=Path, help="qa.json to write")
    parser.add_argument("--inventory", type=Path, help="inventory that the run began with (JSON)")
    add_options(parser, QaOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.reports.judge import write_verdict

    judged = write_verdict(args.folder, args.out, args.inventory, from_args(args, QaOptions))
    print(f"{judged['night']}: {judged['verdict']}. {judged['summary']}")


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
