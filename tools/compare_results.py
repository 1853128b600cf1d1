"""Compare two results folders value for value.

    ./contimg exec python tools/compare_results.py BEFORE AFTER

What is compared, and what tells the run rather than the sky and is left out, says the module
`dsa110_contimg.reports.compare`. Each difference is a line; the exit status is 1 if there is any.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dsa110_contimg.reports.compare import folders, products


def main() -> int:
    """Print the differences; return 1 if there is any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="results folder")
    parser.add_argument("after", type=Path, help="results folder")
    args = parser.parse_args()
    count = 0
    for count, difference in enumerate(folders(args.before, args.after), 1):  # noqa: B007
        print(difference.text)
    compared = len(products(args.before) & products(args.after))
    print(f"{compared} products compared, {count} differences")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
