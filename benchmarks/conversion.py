"""Conversion of a full-size group: the two writers against pyuvdata alone and against copying.

    python benchmarks/conversion.py

writes a group (96 antennas, 768 channels, 24 integrations, 2.3 GB) and half of one, converts them
in fresh processes, the contenders in turn, and keeps the table in ``benchmarks/results/``;
``--page`` makes it the documentation's. Needs 8 GB of disk and, for pyuvdata, 8 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from measure import ROOT, Usage, add_page_option, heading, keep

sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]


def make_group(folder: Path, n_times: int) -> Path:
    """Write the subbands (noise and one source) and their group file; keep what is there."""
    from dsa110_contimg.conversion.group_file import write_group_file
    from dsa110_contimg.telescope.dsa110 import stations
    from support.rawfiles import RawGroup, write_group

    group = folder / f"group_20260125T215{n_times:03d}.hdf5"
    if group.exists():
        return group
    active = [int(i) for i in stations().active.nonzero()[0]]
    raw = RawGroup(
        jd0=2461066.41234,
        dec_app_deg=16.1,
        antennas=tuple(sorted(active, key=lambda n: (n in (101, 115), n))),
        n_times=n_times,
        noise=0.02,
        sources=[(336.0, 15.6, 0.05)],
    )
    write_group_file(group, write_group(folder / f"raw{n_times}", raw))
    return group


def direct(group: Path, target: Path) -> None:
    """Everything of the step but flagging, by the default writer."""
    convert(group, target, lambda *args: conversion().write_direct(*args, workers=2))


def reference(group: Path, target: Path) -> None:
    """Everything of the step but flagging, by the writer that the default is tested against."""
    convert(group, target, conversion().write_pyuvdata)


def conversion() -> ModuleType:
    """Import when run, for start-up counts."""
    from dsa110_contimg.conversion import convert as conversion

    return conversion


def convert(group: Path, target: Path, write: Callable) -> None:
    from dsa110_contimg.conversion import subtables, validation
    from dsa110_contimg.core.sidecar import Sidecar

    content = conversion().read_group(group)
    geometry = conversion().Geometry(content)
    write(content, target, geometry)
    subtables.write_subtables(target, content, geometry, ["benchmark"])
    validation.validate(target, Sidecar(step="benchmark"))


def pyuvdata(group: Path, target: Path) -> None:
    """What a user does without this package: read the subbands' files, combine, phase, write_ms.

    The files say that they are phased to the zenith; they are to hour angle 0 at the apparent
    declination, and pyuvdata has to be told so. The group file gives the files' names alone.
    """
    import erfa
    import numpy as np
    from astropy.utils import iers
    from pyuvdata import UVData

    from dsa110_contimg.telescope.astrometry import Sky

    iers.conf.auto_download = False
    content = conversion().read_group(group)
    parts = []
    for path in content.sources.values():
        part = UVData.from_file(str(path), file_type="uvh5", run_check=False)
        part.uvw_array = part.uvw_array.astype(float)  # single precision is refused
        parts.append(part)
    uvd = parts.pop(0)
    uvd.fast_concat(parts, "freq", inplace=True, run_check=False)
    del part, parts
    azimuth, elevation = erfa.hd2ae(0.0, content.dec_app, content.site.latitude)
    (centre,) = uvd.phase_center_catalog.values()
    centre.update(cat_type="driftscan", cat_lon=float(azimuth), cat_lat=float(elevation))
    uvd.phase_center_app_ra = uvd.lst_array.copy()
    uvd.phase_center_app_dec = np.full(uvd.Nblts, content.dec_app)
    uvd.phase_center_frame_pa = np.zeros(uvd.Nblts)
    ra, dec = Sky(np.mean(content.jd), content.site).meridian_icrs(content.dec_app)[0]
    uvd.phase(lon=ra, lat=dec, phase_frame="icrs", cat_type="sidereal", cat_name="tile")
    uvd.reorder_blts(order="time", minor_order="baseline", conj_convention="ant1<ant2")
    uvd.reorder_freqs(channel_order="freq")
    uvd.write_ms(str(target), run_check=False)


def copy(group: Path, target: Path) -> None:
    """Copy the subbands' bytes, read and write, as the conversion does."""
    target.mkdir()
    for path in conversion().read_group(group).sources.values():
        with path.open("rb") as source, (target / path.name).open("wb") as sink:
            while block := source.read(1 << 22):
                sink.write(block)


CONTENDERS = {"direct": direct, "reference": reference, "pyuvdata": pyuvdata, "copy": copy}
LABELS = {
    "direct": "`direct` writer",
    "reference": "`pyuvdata` writer",
    "pyuvdata": "pyuvdata alone",
    "copy": "copy",
}


def measure(name: str, group: Path, folder: Path) -> Usage:
    """Run one contender in its own process; memory is that of all its processes."""
    target = folder / "out.ms"
    command = [sys.executable, __file__, "--run", name, "--group", str(group), "--target", target]
    os.sync()  # or this one waits for the disk to take what the one before wrote
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.3):  # looking costs time: it walks all page tables
            peak = max(peak, tree_mb(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    done.set()
    watcher.join()
    shutil.rmtree(target, ignore_errors=True)
    if process.returncode:
        raise SystemExit(f"{name} failed: {errors.decode()[-2000:]}")
    return Usage(seconds, cpu, peak)


def tree_mb(pid: int) -> float:
    """Memory of a process and its children, shared pages counted once (PSS), MB."""
    total = 0
    for process in [pid, *children(pid)]:
        try:
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except (OSError, IndexError):  # ended meanwhile
            continue
    return total / 1024


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct_children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in direct_children:
            found += [child, *children(child)]
    return found


def table(results: dict[tuple[str, int], list[Usage]], n_bytes: dict[int, int], runs: int) -> str:
    def median(name: str, n: int, what: str) -> float:
        return statistics.median(getattr(run, what) for run in results[name, n])

    def ratio(slow: str, fast: str, what: str) -> str:
        """Return the median of the rounds' ratios: what slows the machine slows both."""
        pairs = zip(results[slow, 24], results[fast, 24], strict=True)
        return f"{statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs):.1f}"

    lines = [
        "# Conversion",
        "",
        f"{heading(f'python benchmarks/conversion.py --runs {runs}')}, "
        f"load {os.getloadavg()[2]:.1f}; "
        f"medians of {runs} rounds, contenders in turn, each in a fresh process, start-up "
        "included. A group has 96 antennas and 768 channels. Memory is that of all processes "
        "together. Files are read from the page cache and written to it; what one run wrote goes "
        "to disk before the next starts, unmeasured.",
        "",
        "| contender | integrations | seconds | processor s | peak memory, MB | input MB/s "
        "| pyuvdata alone / this: seconds | processor s | this / copying: seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, n in results:
        seconds = median(name, n, "seconds")
        cells = [
            LABELS[name],
            str(n),
            f"{seconds:.1f}",
            f"{median(name, n, 'cpu_s'):.1f}",
            f"{median(name, n, 'peak_mb'):.0f}",
            f"{n_bytes[n] / seconds / 1e6:.0f}",
        ]
        if n == 24:
            cells += [ratio("pyuvdata", name, what) for what in ("seconds", "cpu_s")]
            cells.append(ratio(name, "copy", "seconds"))
        else:
            cells += [""] * 3
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The two writers are this package's, with subtables and validation, without flagging. "
        "`pyuvdata alone` is what a user does without this package: read the 16 files, combine "
        "them, correct the phase centre's label, phase, reorder, `write_ms`. `copy` reads and "
        "writes the 16 files' bytes. Ratios are medians of the rounds' ratios. Processor time is "
        "that of all processes; other work on the machine lengthens it, too (caches, memory and "
        "cores are shared), though less than the seconds that pass.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender")
    parser.add_argument("--folder", type=Path, help="where to put the data (default: temporary)")
    parser.add_argument("--run", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    add_page_option(parser)
    args = parser.parse_args()
    if args.run:
        CONTENDERS[args.run](args.group, args.target)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        groups = {n: make_group(folder, n) for n in (12, 24)}
        n_bytes = {n: sum(p.stat().st_size for p in (folder / f"raw{n}").iterdir()) for n in groups}
        results: dict[tuple[str, int], list[Usage]] = {}
        for _ in range(args.runs):
            for name, n in (*((name, 24) for name in CONTENDERS), ("direct", 12)):
                run = measure(name, groups[n], folder)
                print(
                    f"{name:<9} {n:>3} {run.seconds:7.1f} s {run.cpu_s:7.1f} s of processor "
                    f"{run.peak_mb:7.0f} MB",
                    flush=True,
                )
                results.setdefault((name, n), []).append(run)
    text = table(results, n_bytes, args.runs)
    keep("conversion", text, args.page)
    print(text)


if __name__ == "__main__":
    main()
