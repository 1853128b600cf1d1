"""Conversion of a full-size group: the direct writer against pyuvdata and against copying.

    python benchmarks/conversion.py

writes a group (96 antennas, 768 channels, 24 integrations, 2.3 GB) and half of one, converts them
in fresh processes, the contenders in turn, and puts the table into
``docs/benchmarks/conversion.md``.
Needs 8 GB of disk and, for pyuvdata, 8 GB of memory.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
TABLE = ROOT / "docs" / "benchmarks" / "conversion.md"


@dataclass
class Run:
    seconds: float
    cpu_s: float
    peak_mb: float


def make_group(folder: Path, n_times: int) -> Path:
    """Write the subbands (noise and one source) and their group file; keep what is there."""
    from dsa110_contimg.telescope import stations
    from dsa110_contimg.uvh5 import write_group_file
    from rawfiles import RawGroup, write_group

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
    """Everything of the step but flagging."""
    from dsa110_contimg import conversion, subtables, validation
    from dsa110_contimg.products import Sidecar

    content = conversion.read_group(group)
    geometry = conversion.Geometry(content)
    conversion.write_direct(content, target, geometry, workers=2)
    subtables.write_subtables(target, content, geometry, ["benchmark"])
    validation.validate(target, Sidecar(step="benchmark"))


def pyuvdata(group: Path, target: Path) -> None:
    """Read, phase, write_ms."""
    import numpy as np
    from astropy.utils import iers
    from pyuvdata import UVData

    from dsa110_contimg.astrometry import Sky
    from dsa110_contimg.conversion import read_group

    content = read_group(group)
    iers.conf.auto_download = False
    ra, dec = Sky(np.mean(content.jd), content.site).meridian_icrs(content.dec_app)[0]
    uvd = UVData.from_file(str(group), file_type="uvh5", run_check=False)
    uvd.phase(lon=ra, lat=dec, phase_frame="icrs", cat_type="sidereal", cat_name="tile")
    uvd.reorder_blts(order="time", minor_order="baseline", conj_convention="ant1<ant2")
    uvd.reorder_freqs(channel_order="freq")
    uvd.write_ms(str(target), run_check=False)


def copy(group: Path, target: Path) -> None:
    """Copy the subbands' bytes, read and write, as the conversion does."""
    from dsa110_contimg.conversion import read_group

    target.mkdir()
    for path in read_group(group).sources.values():
        with path.open("rb") as source, (target / path.name).open("wb") as sink:
            while block := source.read(1 << 22):
                sink.write(block)


CONTENDERS = {"direct": direct, "pyuvdata": pyuvdata, "copy": copy}


def measure(name: str, group: Path, folder: Path) -> Run:
    """Run one contender in its own process; memory is that of all its processes."""
    target = folder / "out.ms"
    command = [sys.executable, __file__, "--run", name, "--group", str(group), "--target", target]
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
    return Run(seconds, cpu, peak)


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


def table(results: dict[tuple[str, int], list[Run]], n_bytes: dict[int, int], runs: int) -> str:
    def median(name: str, n: int, what: str) -> float:
        return statistics.median(getattr(run, what) for run in results[name, n])

    reference, copying = median("pyuvdata", 24, "seconds"), median("copy", 24, "seconds")
    lines = [
        "# Conversion",
        "",
        f"`python benchmarks/conversion.py` on {dt.date.today():%d %B %Y}: "
        f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[2]:.1f}; "
        f"median of {runs} runs, contenders in turn, each in a fresh process, start-up included. "
        "A group has 96 antennas and 768 channels. Memory is that of all processes together. Files "
        "are in the page cache.",
        "",
        "| contender | integrations | seconds | processor s | peak memory, MB | input MB/s "
        "| pyuvdata is slower by | of copying |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, n in results:
        seconds = median(name, n, "seconds")
        whole = n == 24
        lines.append(
            f"| {name} | {n} | {seconds:.1f} | {median(name, n, 'cpu_s'):.1f} "
            f"| {median(name, n, 'peak_mb'):.0f} "
            f"| {n_bytes[n] / seconds / 1e6:.0f} "
            f"| {f'{reference / seconds:.1f}' if whole else ''} "
            f"| {f'{seconds / copying:.1f}' if whole else ''} |"
        )
    lines += [
        "",
        "`direct` includes the subtables and the validation, not the flagging; `pyuvdata` is "
        "read, phase, reorder, `write_ms` of the group file; `copy` reads and writes the "
        "subbands' bytes. Processor time is that of all processes and does not depend on what "
        "else the machine does.",
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
    args = parser.parse_args()
    if args.run:
        CONTENDERS[args.run](args.group, args.target)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        groups = {n: make_group(folder, n) for n in (12, 24)}
        n_bytes = {n: sum(p.stat().st_size for p in (folder / f"raw{n}").iterdir()) for n in groups}
        results: dict[tuple[str, int], list[Run]] = {}
        for _ in range(args.runs):
            for name, n in (("direct", 24), ("pyuvdata", 24), ("copy", 24), ("direct", 12)):
                run = measure(name, groups[n], folder)
                print(
                    f"{name:<9} {n:>3} {run.seconds:7.1f} s {run.cpu_s:7.1f} s of processor "
                    f"{run.peak_mb:7.0f} MB",
                    flush=True,
                )
                results.setdefault((name, n), []).append(run)
    text = table(results, n_bytes, args.runs)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
