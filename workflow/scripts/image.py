"""Image a calibrated tile and judge the result."""

import argparse
import os
import sys
from pathlib import Path

from dsa110_contimg.core import steps
from dsa110_contimg.core.config import add_options, from_args
from dsa110_contimg.core.options import ImagingOptions, SelfcalOptions


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this step."""
    parser = steps.parser("image", __doc__)
    parser.add_argument("ms", type=Path, help="calibrated Measurement Set (<id>.cal.ms)")
    parser.add_argument("prefix", type=Path, help="products are PREFIX.image.fits and so on")
    parser.add_argument("--catalog", type=Path, help="reference catalogue")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="imager's threads")
    parser.add_argument("--memory-gb", type=float, help="memory the imager plans with, GB")
    add_options(parser, ImagingOptions)
    add_options(parser, SelfcalOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the step."""
    from dsa110_contimg.imaging.tile import image_tile

    figures = image_tile(
        args.ms,
        args.prefix,
        from_args(args, ImagingOptions),
        selfcal=from_args(args, SelfcalOptions),
        catalog=args.catalog,
        threads=args.threads,
        memory_gb=args.memory_gb,
    )
    rms, ratio = figures.rms_jy, figures.rms_over_thermal
    if rms is None:
        print(f"{args.prefix}.image.fits: blank")
    else:
        print(
            f"{args.prefix}.image.fits: rms {rms * 1e3:.3f} mJy/beam ({ratio:.2f} times thermal), "
            f"dynamic range {figures.dynamic_range:.0f}"
        )


if __name__ == "__main__":
    sys.exit(steps.run(argparser(), main))
