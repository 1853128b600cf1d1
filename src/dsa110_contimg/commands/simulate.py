"""``contimg simulate``: write UVH5 files of a known sky."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..core.config import add_options, from_args
from ..simulation.season import PRESETS, SimulationOptions, simulate


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg simulate",
        description="Write UVH5 files of a known sky, as the correlator does, and the truth.",
    )
    parser.add_argument(
        "out", type=Path, help="folder for incoming/, truth/, catalog.csv, config.yaml"
    )
    parser.add_argument("--preset", choices=PRESETS, default="demo", help="(default: demo)")
    parser.add_argument("--progress", action="store_true", help="print a line for each group")
    add_options(parser, SimulationOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Simulate; options override those of the preset."""
    given = from_args(args, SimulationOptions).model_dump(exclude_unset=True)
    tell = (lambda text: print(text, flush=True)) if args.progress else None
    simulate(PRESETS[args.preset].model_copy(update=given), args.out, tell)
