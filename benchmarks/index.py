"""Cost of the index: rebuilt from nothing, with a night more, with nothing new; and of questions.

    python benchmarks/index.py [--nights 300] [--tiles 28] [--sources 1150]

writes the sidecars and photometry of a season (sidecars of real length, 2500 catalogue sources
measured in each night's mosaic, too), runs the step in processes of its own, and prints Markdown
tables. 300 nights of 28 tiles of 1150 sources are 10 million measurements; they take 6 GB of disk.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import report as night_report
from measure import ROOT, step

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.core.times import DAY_S, group_id, night_of
from dsa110_contimg.photometry.measure import COLUMNS
from dsa110_contimg.reports import index as index_module
from dsa110_contimg.telescope.dsa110 import TILE_S

START_MJD = 61072.0005


class Season:
    """Writes nights of a season; text that all tiles share is made once."""

    def __init__(self, root: Path, tiles: int, sources: int):
        self.layout, self.tiles, self.sources = Layout(root), tiles, sources
        self.rng = np.random.default_rng(5)
        n = max(sources * tiles // 2, 2500)
        self.names = [f"J{i:06d}+330000" for i in range(n)]
        self.place = [
            f"{360 * i / n:.5f},{32 + 2 * ((i * 7919) % 997) / 997:.5f}" for i in range(n)
        ]
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(Path(folder))
            group = group_id(START_MJD)
            night_report.sidecars(layout, group, 15.0, group, self.rng)
            Sidecar("image", qa={"rms_jy": 3e-4}, timings_s={"total": 30.0}).write(
                layout.group(group, "image.fits")
            )
            Sidecar("photometry", timings_s={"total": 1.4}).write(
                layout.group(group, "photometry.csv")
            )
            self.template = {
                path.name.replace(group, "{group}"): path.read_text().replace(group, "{group}")
                for path in sorted(layout.group(group).glob("*.json"))
            }
        self.group = group

    def night(self, number: int) -> str:
        """Write one night; return its date."""
        start = START_MJD + number
        ids = [group_id(start + i * TILE_S / DAY_S) for i in range(self.tiles)]
        for i, group in enumerate(ids):
            self._tile(group, i, start + i * TILE_S / DAY_S)
        night = night_of(ids[0])
        with self.layout.night(night, "photometry.csv").open("w") as out:
            self._table(out, range(2500), night, start, "mosaic.fits")
        inputs = [self.layout.group(g, "image.fits.json") for g in ids]
        Sidecar("mosaic", inputs=inputs).write(self.layout.night(night, "mosaic.fits"))
        Sidecar("photometry", inputs=inputs[:1]).write(self.layout.night(night, "photometry.csv"))
        return night

    def _tile(self, group: str, number: int, mjd: float) -> None:
        folder = self.layout.group(group)
        folder.mkdir(parents=True)
        kinds = ("ms", "cal.ms", "image.fits", "photometry.csv")
        before = f"{folder}/group_{group}.hdf5"
        for kind in kinds:
            content = self.template[f"{{group}}.{kind}.json"].replace("{group}", group)
            entry = f'{{"path": "{before}", "size_bytes": 9}}'
            content = content.replace('"inputs": []', f'"inputs": [{entry}]')
            (folder / f"{group}.{kind}.json").write_text(content)
            before = f"{folder}/{group}.{kind}"
        for name in ("group_{group}.hdf5.json", "{group}.calibration.json"):
            text = self.template[name].replace("{group}", group)
            (folder / name.replace("{group}", group)).write_text(text)
        first = number * self.sources // 2
        with (folder / f"{group}.photometry.csv").open("w") as out:
            self._table(out, range(first, first + self.sources), group, mjd, f"{group}.image.fits")

    def _table(self, out, sources, epoch: str, mjd: float, image: str) -> None:
        flux = self.rng.lognormal(-4, 1, len(sources))
        out.write(",".join(COLUMNS) + "\n")
        out.writelines(
            f"{(s := self.names[i % len(self.names)])},{s},{self.place[i % len(self.place)]},"
            f"{mjd:.6f},{epoch},{f:.6g},0.0005,0.0005,{f / 5e-4:.4g},,{f:.6g},0.8,,{image}\n"
            for i, f in zip(sources, flux, strict=True)
        )


def questions(out: Path, source: str) -> list[tuple[str, float, int]]:
    """Return the queries of the documentation, the time of each (s), and how many rows it gives."""
    text = (ROOT / "docs/handbook/reports.md").read_text()
    found = []
    values = {"source": source, "ra": 15.0, "dec": 33.0}
    for query in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
        with index_module.open_index(out) as db:
            started = time.monotonic()
            rows = len(db.execute(query, values).fetchall())
            found.append((" ".join(query.split())[:70], time.monotonic() - started, rows))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nights", type=int, default=300)
    parser.add_argument("--tiles", type=int, default=28)
    parser.add_argument("--sources", type=int, default=1150, help="measured on each tile")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        season = Season(root / "results", options.tiles, options.sources)
        for number in range(options.nights):
            season.night(number)
        results, out = root / "results", root / "index.sqlite"
        rows = [("rebuilt", *step("index", results, out, "--rebuild"))]
        rows.append(("nothing new", *step("index", results, out)))
        season.night(options.nights)
        rows.append(("a night more", *step("index", results, out)))
        with index_module.open_index(out) as db:
            (n,) = db.execute("SELECT count(*) FROM measurements").fetchone()
        print(f"{n} measurements, {out.stat().st_size / 1e9:.2f} GB\n")
        print("| index | wall s | processor s | memory MB |\n|---|---|---|---|")
        for name, wall, used, memory in rows:
            print(f"| {name} | {wall:.1f} | {used:.1f} | {memory:.0f} |")
        print("\n| question | ms | rows |\n|---|---|---|")
        for query, seconds, count in questions(out, season.names[5]):
            print(f"| `{query}` | {1e3 * seconds:.1f} | {count} |")
        group = group_id(START_MJD)
        for command in ("lineage", "recall"):
            product = "photometry.csv" if command == "lineage" else "ms"
            path = f"nights/{night_of(group)}/groups/{group}/{group}.{product}"
            with index_module.open_index(out) as db:
                started = time.monotonic()
                count = len(getattr(index_module, command)(db, path))
            print(f"| {command} | {1e3 * (time.monotonic() - started):.1f} | {count} |")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
