"""Imaging of a full-size tile: averaged and at full resolution, by preset.

    python benchmarks/imaging.py RESULTS ID CALIBRATOR_ID --catalog catalog.csv

takes a converted tile ``RESULTS/ID.ms`` and a calibration ``RESULTS/CALIBRATOR_ID.bcal`` (and so
on), applies it once as the workflow does and once without averaging, images the first with the
presets and the second with WSClean's settings of ``standard`` (no seeds), one after the other, and
prints a Markdown table. Needs 5 GB of disk beside the tile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
PARTS = ("weights", "seeds", "imager", "restore", "beam", "noise", "catalogue", "write")


def step(*arguments) -> float:
    """Run a step in a process of its own; return its wall time."""
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "dsa110_contimg", *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENBLAS_NUM_THREADS": "1"},
    )
    return time.monotonic() - started


def fluxes(image: Path, catalog: Path):
    """Return the photometry of sources expected above 20 sigma."""
    from dsa110_contimg import photometry
    from dsa110_contimg.catalogs import read_catalog
    from dsa110_contimg.config import PhotometryOptions

    with photometry.open_planes(image) as planes:
        table = photometry.measure(
            planes[0], read_catalog(catalog), PhotometryOptions(pb_limit=0.3)
        )
    bright = table.catalog_flux_jy > 20 * table.local_rms_jy
    return table[bright & (table["flags"] == "")].set_index("source_id").flux_jy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("group")
    parser.add_argument("calibrator")
    parser.add_argument("--catalog", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ms = args.results / f"{args.group}.ms"
    candidate = ["--candidate", args.results / args.calibrator]
    print("| run | wall s | " + " | ".join(PARTS) + " | rms mJy | rms/thermal | peak memory GB |")
    print("|---|---|" + "---|" * (len(PARTS) + 3))
    with tempfile.TemporaryDirectory(dir=args.results) as scratch:
        averaged = Path(scratch) / f"{args.group}.cal.ms"
        seconds = step("apply", ms, averaged, *candidate)
        print(f"| apply and average | {seconds:.1f} |" + " |" * (len(PARTS) + 3), flush=True)
        full = Path(scratch) / "full" / f"{args.group}.cal.ms"
        full.parent.mkdir()
        seconds = step("apply", ms, full, *candidate, "--max-smearing", 0)
        print(f"| apply, full resolution | {seconds:.1f} |" + " |" * (len(PARTS) + 3), flush=True)
        runs = {
            "quick": (averaged, ["--preset", "quick"]),
            "standard": (averaged, []),
            "standard, no seeds": (averaged, ["--seed-most", 0]),
            "standard, full resolution": (full, []),
            "standard, no seeds, full resolution": (full, ["--seed-most", 0]),
        }
        measured = {}
        for name, (data, options) in runs.items():
            prefix = Path(scratch) / name.replace(" ", "").replace(",", "-") / args.group
            options = [*options, "--threads", args.threads, "--catalog", args.catalog]
            seconds = step("image", data, prefix, *options)
            image = prefix.with_name(f"{args.group}.image.fits")
            record = json.loads(Path(f"{image}.json").read_text())
            qa, parts = record["qa"], record["timings_s"]
            memory = max(qa["imager_peak_memory_gb"], qa["peak_memory_gb"])
            print(
                f"| {name} | {seconds:.1f} | "
                + " | ".join(f"{parts.get(part, 0):.1f}" for part in PARTS)
                + f" | {1e3 * qa['rms_jy']:.3f} | {qa['rms_over_thermal']:.2f} | {memory:.2f} |",
                flush=True,
            )
            measured[name] = fluxes(image, args.catalog)
    for name, flux in measured.items():
        ratio = (flux / measured["standard, full resolution"]).dropna()
        print(f"\n{name}: flux over full resolution {ratio.median():.4f} ({len(ratio)} sources)")


if __name__ == "__main__":
    main()
