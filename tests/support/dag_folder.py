"""A results folder of empty products, and Snakemake on top of it without doing the work."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.times import group_id, night_of
from support import REPO

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
    nights: list = field(default_factory=list)

    @classmethod
    def make(cls, path):
        """Lay out a folder in which the shipped configuration is valid."""
        (path / "incoming").mkdir()
        (path / "demo/incoming").mkdir(parents=True)
        catalog = path / "demo/catalog.csv"
        catalog.write_text("name,ra_deg,dec_deg,flux_jy\na,24.4,33.2,1.0\n")
        return cls(path)

    def copy(self, path):
        """Return a copy with the same times of modification."""
        shutil.copytree(self.path, path)
        return DagFolder(path, copy.deepcopy(self.groups), copy.deepcopy(self.nights))

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

    def stub(self):
        """Return a folder that holds a ``python`` which only pretends."""
        folder = self.path / "bin"
        if not folder.exists():
            folder.mkdir()
            program = folder / "python"
            stub = REPO / "tests/support/stub_step.py"
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {stub} "$@"\n')
            program.chmod(0o755)
        return folder

    def snakemake(self, *options, frozen=True):
        command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile")]
        return self._call([*command, *options], frozen)

    def contimg(self, *arguments):
        return self._call([sys.executable, "-m", "dsa110_contimg", *arguments], True)

    def _call(self, command, frozen):
        env = dict(os.environ, PYTHONPATH=str(REPO / "src"))
        folders = [self.stub(), Path(sys.executable).parent, env["PATH"]]
        env["PATH"] = os.pathsep.join(map(str, folders))
        if frozen:
            env["CONTIMG_INVENTORY"] = str(self.freeze())
        return subprocess.run(
            command,
            cwd=self.path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *options):
        """Run the workflow with every step replaced by one that writes empty products."""
        return self.snakemake("--cores", "2", "--quiet", "all", *options)

    def jobs(self, *options):
        """Return what a dry run would do: a set of (rule, group or night, hour)."""
        done = self.snakemake("--dry-run", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        found = set()
        for text in re.split(r"\n(?=(?:local)?rule )", done.stdout):
            if not (rule := re.match(r"(?:local)?rule (\w+):", text)) or rule[1] == "all":
                continue
            wildcards = dict(re.findall(r"(\w+)=([\w-]+)", _line(text, "wildcards")))
            hour = (wildcards["hour"],) if "hour" in wildcards else ()
            found.add((rule[1], wildcards.get("group") or wildcards.get("night"), *hour))
        return found


def _line(text, key):
    match = re.search(rf"^ *{key}: (.*)$", text, re.M)
    return match[1] if match else ""
