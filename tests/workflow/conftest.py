"""A results folder of empty products, and Snakemake on top of it without doing the work."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dsa110_contimg.products import Layout, group_id, night_of

REPO = Path(__file__).resolve().parents[2]
#: Right ascension of 3C48 (deg), which transits in the first tile of each fake night.
RA_3C48 = 24.4221
TILE_DAYS = 24 * 12.884901888 / 86400
#: MJD at which 3C48 transits at the site on 2026-02-10 (to some seconds).
TRANSIT_MJD = 61081.0 + (1 + 16 / 60) / 24
SIDEREAL_DAYS = 0.99726957


@dataclass
class DagFolder:
    """A working folder with fake raw files and a frozen inventory."""

    path: Path
    groups: dict = field(default_factory=dict)

    @property
    def layout(self):
        return Layout(Path("results"))

    def add_night(self, day, tiles=3, state="complete", n_files=16):
        """Add contiguous tiles, the first with the calibrator's transit in its middle."""
        ids = []
        for tile in range(tiles):
            start = TRANSIT_MJD + day * SIDEREAL_DAYS + (tile - 0.5) * TILE_DAYS
            name = group_id(start)
            files = {}
            for subband in range(n_files):
                raw = self.path / "incoming" / f"{name}_sb{subband:02}.hdf5"
                raw.touch()
                files[str(subband)] = str(raw.relative_to(self.path))
            self.groups[name] = {
                "id": name,
                "night": night_of(name),
                "state": state,
                "files": files,
                "start_mjd": start,
                "duration_s": TILE_DAYS * 86400,
                "n_integrations": 24,
                "dec_app_deg": 33.3,
                "ra_deg": RA_3C48 + tile * TILE_DAYS * 360 / SIDEREAL_DAYS,
                "dec_deg": 33.16,
                "reasons": [],
            }
            ids.append(name)
        return ids

    def freeze(self):
        inventory = {"groups": list(self.groups.values()), "rejected": []}
        path = self.path / "inventory.json"
        path.write_text(json.dumps(inventory))
        return path

    def snakemake(self, *options, frozen=True):
        env = dict(os.environ, PYTHONPATH=str(REPO / "src"))
        if frozen:
            env["CONTIMG_INVENTORY"] = str(self.freeze())
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), *options],
            cwd=self.path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    def finish(self):
        """Pretend that all work is done: touch every output, with sidecars of the right form."""
        done = self.snakemake("--touch", "--cores", "1", "--quiet", "all")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def dag_folder(tmp_path):
    (tmp_path / "incoming").mkdir()
    (tmp_path / "demo/incoming").mkdir(parents=True)
    (tmp_path / "demo/catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\na,24.4,33.2,1.0\n")
    return DagFolder(tmp_path)
