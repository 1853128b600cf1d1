"""What it takes to look through an incoming folder of many raw files.

    ./contimg exec python benchmarks/inventory.py [--files 100000]

The first look reads all headers, in processes; later ones find everything as it was and open no
file. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measure import ROOT, heading, run

sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

#: Inventory of a folder, kept in a cache; prints how many files it knows.
LOOK = """
import sys
from dsa110_contimg.conversion.inventory import take_inventory
from dsa110_contimg.core.options import InventoryOptions
found = take_inventory(sys.argv[1], InventoryOptions(), sys.argv[2])
print(sum(len(group.files) for group in found.groups) + len(found.rejected))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    n_files = parser.parse_args().files

    from support.rawfiles import RawGroup, link_many, write_group

    raw = RawGroup(jd0=2461066.41234, dec_app_deg=16.1, antennas=(0, 115, 30), n_times=3, n_chan=4)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_group(folder / "group", raw)
        link_many(folder / "group", folder / "incoming", raw.jd0, n_files)
        print(heading(f"python benchmarks/inventory.py --files {n_files}"), end="\n\n")
        print("| inventory | wall s | processor s | memory MB |")
        print("|---|---|---|---|")
        for name in ("of new files", "unchanged"):
            look = [sys.executable, "-c", LOOK, folder / "incoming", folder / "cache.json"]
            usage, printed = run(look)
            if int(printed.split()[-1]) != n_files:
                raise SystemExit(f"of {n_files} files were found: {printed}")
            print(f"| {name} | {usage.seconds:.2f} | {usage.cpu_s:.1f} | {usage.peak_mb:.0f} |")


if __name__ == "__main__":
    main()
