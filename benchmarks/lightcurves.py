"""Cost of a light-curve update: nights x sources of simulated photometry, time and memory.

Usage: python benchmarks/lightcurves.py NIGHTS SOURCES
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import season
from dsa110_contimg.photometry import COLUMNS
from dsa110_contimg.products import Sidecar


def main(n_epochs: int, n_sources: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table, _, _ = season.make(np.random.default_rng(1), n_sources, 0, 0, n_epochs)
        table = table.assign(flux_err_jy=season.RMS, group_or_epoch=table.epoch)
        paths = []
        for night, part in table.groupby("epoch"):
            path = Path(folder) / night / "photometry.csv"
            path.parent.mkdir()
            part[list(COLUMNS)].to_csv(path, index=False)
            Sidecar("photometry").write(path)
            paths.append(str(path))
        del table
        started = time.monotonic()
        command = [sys.executable, "-m", "dsa110_contimg", "lightcurves", f"{folder}/out", *paths]
        subprocess.run(command, check=True)
        seconds = time.monotonic() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"| {n_epochs} | {n_sources} | {seconds:.1f} s | {used:.0f} MB |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
