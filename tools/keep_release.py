"""Keep a small results tree of a release, as data for the tests of upgrades.

    ./contimg exec python tools/keep_release.py COMMIT tests/data/released/VERSION.tar.xz

The code of the commit simulates a night and makes, measures and closes it. What is kept is what
later releases read: sidecars, records and tables whole, images cut to a few pixels, of Measurement
Sets and calibration tables the names alone, Snakemake's notes; with times of modification.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from astropy.io import fits

#: What is kept whole, by the end of its name; hidden files beside results are, too.
WHOLE = (".json", ".csv", ".parquet", ".sqlite", ".prom", ".log", ".tsv", ".groups")
#: Width of what is kept of an image, pixels.
WIDTH = 4


def main() -> None:
    """Make the night and pack it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("commit", help="of the release")
    parser.add_argument("out", type=Path, help="archive to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        code, work = Path(folder, "code"), Path(folder, "work")
        code.mkdir()
        work.mkdir()
        packed = subprocess.run(["git", "archive", args.commit], check=True, capture_output=True)
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(code, filter="data")
        _make(code, work)
        _abridge(work / "results")
        with tarfile.open(args.out, "w:xz", preset=9) as archive:
            for name in ("results", ".snakemake/metadata"):
                archive.add(work / name, name, filter=_nobody)
    print(f"{args.out}: {args.out.stat().st_size / 1000:.0f} kB")


def _make(code: Path, work: Path) -> None:
    """Simulate a night and make it with the code of the release."""
    bin_folder = str(Path(sys.executable).parent)
    env = os.environ | {
        "PYTHONPATH": str(code / "src"),
        "CONTIMG_REPO": str(code),
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
    }
    contimg = [sys.executable, "-m", "dsa110_contimg"]
    values = ["incoming=incoming", "results=results", "catalog=catalog.csv"]
    for command in (
        ["simulate", ".", "--preset", "test"],
        ["tick", "--configfile", "config.yaml", "--config", *values],
    ):
        subprocess.run([*contimg, *command], cwd=work, env=env, check=True)


def _abridge(results: Path) -> None:
    """Leave of a results folder what later releases read."""
    for path in sorted(results.rglob("*")):
        if not path.exists() or path.is_symlink():
            continue
        if (path / "table.dat").is_file():
            _keeping_time(path, _empty)
        elif path.name.endswith(".fits"):
            _keeping_time(path, _cut)
        elif path.is_file() and not path.name.endswith(WHOLE):
            _keeping_time(path, lambda p: p.write_bytes(b""))


def _keeping_time(path: Path, change: Callable[[Path], object]) -> None:
    """Change a product, but not when it and its folder are said to have changed."""
    times = {p: p.stat().st_mtime_ns for p in (path, path.parent)}
    change(path)
    for place, time_ns in times.items():
        os.utime(place, ns=(time_ns, time_ns))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _cut(path: Path) -> None:
    """Keep header and first pixels of an image."""
    with fits.open(path) as units:
        for unit in units:
            if unit.data is not None and unit.is_image:
                unit.data = unit.data[..., :WIDTH, :WIDTH].copy()
        units.writeto(path, overwrite=True)


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
