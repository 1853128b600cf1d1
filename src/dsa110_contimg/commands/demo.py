"""``contimg demo``: simulate nights and run the whole chain on them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..core.layout import Layout
from . import run
from .configuration import read_config
from .shared import check_tools

DEMO_FOLDER = Path("demo")


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg demo",
        description="Simulate nights of raw correlator files of a known sky in ./demo, and run the "
        "whole chain on them: calibration, images, mosaics, light curves, report.",
    )
    parser.add_argument("--cores", default=None, help="cores to use (default: all)")
    return parser


def main(args: argparse.Namespace) -> int:
    """Simulate, run, and say where to look."""
    from ..operations import closing
    from ..simulation.season import PRESETS, simulate

    args = run.argparser().parse_args(["--cores", args.cores] if args.cores else [])
    incoming, catalog = DEMO_FOLDER / "incoming", DEMO_FOLDER / "catalog.csv"
    config = read_config(args)
    # A configuration that points at real data keeps its results folder free of simulated ones.
    results = config.results if config.incoming == incoming else DEMO_FOLDER / "results"
    check_tools(config)
    if not (DEMO_FOLDER / "truth" / "truth.json").is_file():
        print(f"simulating raw files in {incoming}", flush=True)
        simulate(PRESETS["demo"], DEMO_FOLDER, lambda text: print(text, flush=True))
    args.config = [f"incoming={incoming}", f"results={results}", f"catalog={catalog}"]
    here = Path.cwd()
    status = run.main(args)
    os.chdir(here)
    if status:
        return status
    layout = Layout(results)
    nights = closing.nights_on_disk(layout)
    print("\nDone. Where to look:")
    for night in nights:
        print(f"  {layout.night(night, 'report.html')}  report of the night")
    print(f"  {layout.night(nights[-1], 'mosaic.fits')}  the night's mosaic")
    print(f"  {layout.lightcurves('lightcurves.parquet')}  light curves of all sources")
    print(f"  {layout.lightcurves('candidates.csv')}  variable sources, most significant first")
    print(f"  {DEMO_FOLDER / 'truth' / 'sources.csv'}  the sky that went in")
    _say_winner(layout)
    return 0


def _say_winner(layout: Layout) -> None:
    lines = layout.lightcurves("candidates.csv").read_text().splitlines()
    if len(lines) > 1:
        row = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
        print(f"Top candidate: {row.get('name', row)}")
