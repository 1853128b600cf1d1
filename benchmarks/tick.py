"""What a tick costs that finds nothing to do, on the results of three years.

    ./contimg exec python benchmarks/tick.py [--nights 1296] [--groups 278] [--raw-days 30]

Lays out closed nights as ticks leave them (records, measurements, a folder with two files for each
group), raw files of the last nights in the incoming folder, and times ``contimg tick``: the first
one, which reads the headers of the raw files, and later ones, which find everything as it was.
Prints a Markdown table; wanted is less than 3 s.
"""

import argparse
import datetime as dt
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measure import contimg

from dsa110_contimg.conversion import inventory
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.times import DAY_S, MJD_ZERO_JD, group_id, night_mjd, night_of
from dsa110_contimg.operations import closing
from dsa110_contimg.telescope import dsa110
from dsa110_contimg.telescope.dsa110 import TILE_S
from support.rawfiles import RawGroup, file_name, write_subband

FIRST = dt.date(2026, 1, 1)


def lay_out(folder, nights, groups, raw_days):
    """Make closed nights and raw files; return how many raw files there are."""
    layout = Layout(folder / "results")
    incoming = folder / "incoming"
    incoming.mkdir()
    (folder / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\na,24.4,33.2,1.0\n")
    n_raw = 0
    for day in range(nights):
        night = f"{FIRST + dt.timedelta(days=day)}"
        start = night_mjd(night)
        entries = []
        for number in range(groups):
            mjd = start + number * (TILE_S + 1) / DAY_S
            identity = group_id(mjd)
            layout.group(identity).mkdir(parents=True)
            for kind in ("photometry.csv", "image.fits"):
                layout.group(identity, kind).touch()
            files = raw_files(incoming, mjd) if nights - day <= raw_days else {}
            n_raw += len(files)
            entries.append(entry(identity, mjd, files))
        layout.night(night, "photometry.csv").touch()
        solution = {"group": asdict(entries[0]), "verdict": "pass"}
        made = [e.id for e in entries]
        closing.write(layout, closing.summary(night, entries, made, [solution], {}, []))
    return n_raw


def raw_files(incoming, start_mjd):
    """Write the subbands of a group: one file under sixteen names, for only headers are read."""
    raw = RawGroup(
        start_mjd + MJD_ZERO_JD + dsa110.INTEGRATION_S / 2 / DAY_S,
        dec_app_deg=33.3,
        antennas=(0, 30),
        n_chan=1,
    )
    names = [incoming / file_name(raw.times[0], subband) for subband in range(dsa110.N_SUBBANDS)]
    write_subband(names[0], raw, 0)
    for name in names[1:]:
        os.link(names[0], name)
    return dict(enumerate(map(str, names)))


def entry(identity, start_mjd, files):
    """Return a group as the inventory would."""
    return inventory.Group(
        id=identity,
        night=night_of(identity),
        state="complete",
        files=files,
        start_mjd=start_mjd,
        duration_s=TILE_S,
        n_integrations=24,
        dec_app_deg=33.3,
        ra_deg=10.0,
        dec_deg=33.2,
    )


def tick(folder):
    """Run a tick; return what it took and what it printed."""
    config = ["incoming=incoming", "results=results", "catalog=catalog.csv"]
    config += ["flagging={engine: none}", "imaging={engine: tclean}", "operations={min_free_gb: 0}"]
    return contimg("tick", "--config", *config, cwd=folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nights", type=int, default=1296, help="closed nights")
    parser.add_argument(
        "--groups", type=int, default=278, help="groups a night (a day has no more)"
    )
    parser.add_argument("--raw-days", type=int, default=30, help="nights whose raw files are there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_raw = lay_out(folder, args.nights, args.groups, args.raw_days)
        print(
            f"{args.nights * args.groups} groups on {args.nights} closed nights, {n_raw} raw files"
        )
        print("\n| tick | wall, s | processor, s | memory, MB |\n|---|---|---|---|")
        for label in ("first, reads all headers", "second", "third", "fourth"):
            used, said = tick(folder)
            cells = f"{used.seconds:.2f} | {used.cpu_s:.2f} | {used.peak_mb:.0f}"
            print(f"| {label} | {cells} |", flush=True)
            if "jobs to do" in said:
                sys.exit(f"there was something to do: {said}")


if __name__ == "__main__":
    main()
