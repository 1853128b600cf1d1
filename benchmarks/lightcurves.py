"""Cost of light curves: all nights at once, and one more night, by the number of nights.

Usage: python benchmarks/lightcurves.py [SOURCES [NIGHTS...]]   (2000 sources; 30 365 1000 nights)
"""

import json
import sys
import tempfile
from pathlib import Path

from measure import step

N_SOURCES, NIGHTS = 2000, (30, 365, 1000)


def make(folder: str, n_epochs: int, n_sources: int) -> None:
    """Write the photometry tables of a simulated season."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from dsa110_contimg.core.sidecar import Sidecar
    from dsa110_contimg.photometry.measure import COLUMNS
    from support import season

    table, _ = season.make(np.random.default_rng(1), n_sources, 0, 0, n_epochs)
    table = table.assign(group_or_epoch=table.epoch, image="mosaic.fits")
    for night, part in table.groupby("epoch"):
        path = Path(folder) / night / "photometry.csv"
        path.parent.mkdir()
        part[list(COLUMNS)].to_csv(path, index=False)
        Sidecar("photometry").write(path)


def main(n_sources: int, nights: list[int]) -> None:
    print("| nights | sources | all at once | memory | one more night | memory | tables read |")
    print("|---|---|---|---|---|---|---|")
    for n_epochs in nights:
        with tempfile.TemporaryDirectory() as folder:
            make(folder, n_epochs + 1, n_sources)
            tables = [str(p) for p in sorted(Path(folder).glob("*/photometry.csv"))]
            every = step("lightcurves", f"{folder}/out", *tables[:-1])
            one = step("lightcurves", f"{folder}/out", *tables)
            record = json.loads((Path(folder) / "out/lightcurves.parquet.json").read_text())
            print(
                f"| {n_epochs} | {n_sources} | {every.seconds:.1f} s | {every.peak_mb:.0f} MB "
                f"| {one.seconds:.1f} s | {one.peak_mb:.0f} MB | {record['qa']['n_tables_read']} |",
                flush=True,
            )


if __name__ == "__main__":
    given = list(map(int, sys.argv[1:]))
    main(given[0] if given else N_SOURCES, given[1:] or list(NIGHTS))
