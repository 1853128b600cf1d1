"""A night of raw files, as headers tell it, and a working folder in which steps only pretend.

Scanning, planning, Snakemake, locks and records are the real ones; the steps are those of
``stub_step.py``, which write digests of what they were made of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

from support.dag_folder import SIDEREAL_DAYS, TILE_DAYS, DagFolder
from support.rawfiles import RawGroup, write_group

MJD0_JD = 2400000.5
#: MJD at which 3C48 transits at the site on 2026-02-10, to some seconds.
TRANSIT_MJD = 61081.00835
INTEGRATION_DAYS = TILE_DAYS / 24
#: What differs from one run to the next, by design: logs, timings, records of runs, kept state.
VOLATILE = ("logs", "benchmarks", "runs", "configurations")
#: Files that hold the science, and columns that hold the hash or version of a file, which has the
#: time of its making in its header.
ENDINGS = ("fits", "csv", "parquet")
RUNS_OWN = ("image_version", "image_sha256")


def raw_groups(folder: Path, tiles: int, day: int = 0) -> list[list[Path]]:
    """Write the raw files of some contiguous tiles, the first with the transit of 3C48."""
    groups = []
    for tile in range(tiles):
        start = TRANSIT_MJD + day * SIDEREAL_DAYS + (tile - 0.5) * TILE_DAYS
        jd0 = start + MJD0_JD + INTEGRATION_DAYS / 2
        raw = RawGroup(jd0, dec_app_deg=33.3, antennas=(0, 30, 101), n_chan=2)
        groups.append(write_group(folder, raw))
    return groups


@dataclass
class Operations:
    """A working folder for ticks and runs."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> Operations:
        path.mkdir(parents=True, exist_ok=True)
        DagFolder.make(path)
        DagFolder(path).stub()
        return cls(path)

    @property
    def incoming(self) -> Path:
        return self.path / "incoming"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def env(self) -> dict[str, str]:
        folders = [str(self.path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        return {
            **os.environ,
            "PATH": os.pathsep.join(folders),
            "STUB_LEDGER": str(self.path / "ledger"),
            "STUB_FAIL": str(self.path / "fail"),
        }

    def receive(self, groups: Iterable[Iterable[Path]]) -> None:
        """Let raw files of some groups arrive."""
        for file in chain.from_iterable(groups):
            arrive(file, self.incoming)

    def command(self, *arguments: str, wait_s: float = 0.0) -> list[str]:
        """Return a command line with a configuration of this folder's own."""
        config = ["incoming=incoming", f"inventory={{wait_s: {wait_s}}}"]
        config += ["operations={close_after_s: 0, min_free_gb: 0.1}"]
        return [sys.executable, "-m", "dsa110_contimg", *arguments, "--config", *config]

    def start(self, *arguments: str, wait_s: float = 0.0, **env: str) -> subprocess.Popen:
        """Begin a command in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments, wait_s=wait_s),
            cwd=self.path,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str, wait_s: float = 0.0, **env: str) -> tuple[int, str]:
        """Run a command to its end; return exit status and what it printed."""
        process = self.start(*arguments, wait_s=wait_s, **env)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def ledger(self) -> list[tuple[str, str]]:
        """Return what the steps noted: "begin" or "end", and the job."""
        path = self.path / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(line.split(" ", 1)) for line in lines]

    def products(self) -> dict[str, str]:
        """Return a digest of every product, by its place."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            place = path.relative_to(self.results)
            hidden = any(part.startswith(".") for part in place.parts)
            if hidden or place.parts[0] in VOLATILE:
                continue
            if path.is_file():
                found[str(place)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def science(products: dict[str, str]) -> dict[str, str]:
    """Leave out what tells the history of the runs rather than of the sky."""
    names = {"inventory.json", "index.sqlite", "closed.json", "records.json.gz", "metrics.prom"}
    names |= {"release.json", "verify.json", "index.sqlite.json"}

    def is_science(path: Path) -> bool:  # what was made of which copies of raw files is none
        return path.name not in names and not path.name.endswith(".hdf5.json")

    return {path: made for path, made in products.items() if is_science(Path(path))}


def assert_same_science(one: Path, other: Path) -> None:
    """Compare real results: images to float rounding, tables row for row.

    Parameters
    ----------
    one, other : path
        Results folders.
    """
    names = [
        {path.relative_to(folder) for ending in ENDINGS for path in folder.rglob(f"*.{ending}")}
        for folder in (one, other)
    ]
    assert names[0] == names[1] and names[0]
    for name in sorted(names[0]):
        if name.suffix == ".fits":
            a, b = (fits.getdata(folder / name) for folder in (one, other))
            scale = np.nanmax(np.abs(b))
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * scale, err_msg=str(name))
        else:
            read = pd.read_csv if name.suffix == ".csv" else pd.read_parquet
            a, b = (read(folder / name) for folder in (one, other))
            own = [column for column in a if column in RUNS_OWN]
            pd.testing.assert_frame_equal(
                a.drop(columns=own), b.drop(columns=own), rtol=1e-5, obj=str(name)
            )


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL a process and everything below it, also what has left its process group."""
    pids = [process.pid]
    for pid in pids:
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def arrive(source: Path, incoming: Path, name: str = "") -> None:
    """Let a file arrive: whole, under its final name, dated now."""
    temporary = incoming / f".{source.name}.part"
    shutil.copyfile(source, temporary)
    temporary.rename(incoming / (name or source.name))
