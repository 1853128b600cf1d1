"""Cost of the pages of a full night: one for each tile, then that of the night.

    python benchmarks/report.py [--tiles 280] [--size 2400] [--calibrators 4]

writes a night of images, sidecars, calibration tables and photometry of real size (noise, sources,
96 antennas, 768 channels), runs the steps as the workflow does, each in a process of its own, and
prints a Markdown table. Ten images are different; the others are links to them. The times of the
tiles' pages are those of ten.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from measure import step

from dsa110_contimg.core.files import write_text
from dsa110_contimg.core.layout import Layout, companion
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.core.times import DAY_S, group_id, group_mjd, night_of
from dsa110_contimg.telescope.dsa110 import TILE_S, stations
from support.fake_results import (
    make_sources,
    measure,
    write_caltable,
    write_image,
    write_photometry,
)

DIFFERENT = 10
RMS_JY = 0.3e-3
COLUMNS = ("low", "XX", "YY", "high")


def names() -> list[str]:
    """Return the names of the active antennas."""
    return [f"DSA-{n + 1:03d}" for n in np.flatnonzero(stations().active)]


def sidecars(layout: Layout, group: str, ra: float, chosen: str, rng) -> None:
    """Write the sidecars of a tile before its image, with lists of real length."""
    mjd = group_mjd(group) + (np.arange(24) + 0.5) * TILE_S / 24 / DAY_S
    flags = {
        "flagged_fraction": 0.12,
        "flagged_fraction_effective": 0.1,
        "by_channel": rng.uniform(0, 0.3, 768).round(4).tolist(),
        "by_antenna": {n: round(float(rng.uniform(0, 0.3)), 4) for n in names()},
        "percent_by_antenna_block": {n: rng.integers(0, 30, 48).tolist() for n in names()},
    }
    pointing = {"time_mjd": mjd.tolist(), "ra_deg": [ra] * 24, "dec_deg": [33.0] * 24}
    common = {"phase_centre_ra_deg": ra, "phase_centre_dec_deg": 33.0, "dec_app_deg": 33.1}

    def percentiles(n):
        return {
            quantity: {k: rng.normal(1, 0.1, n).round(4).tolist() for k in COLUMNS}
            for quantity in ("amplitude_jy", "phase_deg")
        }

    visibilities = {
        "polarizations": ["XX", "YY"],
        "towards_deg": None,
        "frequency": {"freq_hz": np.linspace(1.311e9, 1.498e9, 128).tolist()} | percentiles(128),
        "time": {"time_mjd": mjd.tolist()} | percentiles(24),
        "length": {"length_m": np.geomspace(10, 2500, 24).tolist()} | percentiles(24),
        "antenna": {"names": names()} | percentiles(96),
    }
    weights = {"weight": rng.uniform(1, 2, (24, 128)).round(4).tolist()}
    for kind, made_by, qa in (
        ("hdf5", "group", {"subbands": list(range(16)), "group": {"id": group}}),
        ("ms", "convert", common | {"flags": flags, "pointing": pointing}),
        ("cal.ms", "apply", common | {"visibilities": visibilities, "weights": weights}),
    ):
        card = Sidecar(made_by, qa=qa, timings_s={"total": 10.0})
        card.write(layout.group(group, kind))
    write_text(
        layout.group(group, "calibration.json"),
        json.dumps({"chosen": chosen, "calibrators": {chosen: "3C48"}, "borrowed": False}),
    )


def tile(layout: Layout, number: int, group: str, ids: list[str], options, sources, rng) -> None:
    """Write a tile; only the first few have images of their own."""
    ra = (15.0 + number * TILE_S / 86164.1 * 360) % 360
    sidecars(layout, group, ra, ids[0], rng)
    image = layout.group(group, "image.fits")
    kinds = ("image", "pb", "rms", "residual")
    if number < DIFFERENT:
        near = [s for s in sources if abs((s["ra_deg"] - ra + 180) % 360 - 180) < 2.5]
        sky = [(s["ra_deg"], s["dec_deg"] - 16.1 + 33, s["flux_jy"]) for s in near]
        write_image(
            image, ra, 33.0, sky, True, RMS_JY, (options.size,) * 2, 6 / 3600, rng, beam_arcsec=30
        )
        noise = companion(image, "residual")
        write_image(
            noise, ra, 33.0, [], False, RMS_JY, (options.size,) * 2, 6 / 3600, rng, beam_arcsec=30
        )
        for spare in ("residual.rms", "residual.weight"):
            layout.group(group, f"{spare}.fits").unlink(missing_ok=True)
    else:
        for kind in kinds:
            os.link(
                layout.group(ids[number % DIFFERENT], f"{kind}.fits"),
                layout.group(group, f"{kind}.fits"),
            )
    card = Sidecar("image", timings_s={"total": 30.0})
    card.qa = {"rms_jy": RMS_JY * rng.uniform(1, 2), "thermal_rms_jy": 0.25e-3, "peak_jy": 1.0}
    card.qa |= {"dynamic_range": 3000.0, "beam_major_arcsec": 37.0, "beam_minor_arcsec": 25.0}
    card.write(image)
    fluxes = [s["flux_jy"] for s in sources]
    rows = measure(sources, fluxes, ra, group_mjd(group), group, RMS_JY, rng, image.name)
    write_photometry(layout.group(group, "photometry.csv"), rows)
    Sidecar("photometry", timings_s={"total": 1.4}).write(layout.group(group, "photometry.csv"))


def make_night(root: Path, options: argparse.Namespace) -> tuple[Layout, str, list[str]]:
    """Write the night; return its layout, date and groups."""
    rng = np.random.default_rng(3)
    layout = Layout(root)
    start = 61072.0005
    ids = [group_id(start + i * TILE_S / DAY_S) for i in range(options.tiles)]
    width = options.tiles * TILE_S / 86164.1 * 360
    sources = make_sources(int(12 * width), 15.0, width, apart_deg=0.1)
    for number, group in enumerate(ids):
        tile(layout, number, group, ids, options, sources, rng)
    for group in ids[:: max(1, options.tiles // options.calibrators)][: options.calibrators]:
        for kind in ("kcal", "bcal", "gcal"):
            path = layout.group(group, kind)
            write_caltable(path, kind, 96, 768, group_mjd(group), rng)
            Sidecar("calibrate", qa={"calibrator": "3C48"}, timings_s={"solve": 40.0}).write(path)
    night = night_of(ids[0])
    mosaic = layout.night(night, "mosaic.fits")
    shape = (int(4.5 * 600), int(min(width + 4, 30) * 600))
    sky = [(s["ra_deg"], s["dec_deg"] - 16.1 + 33, s["flux_jy"]) for s in sources]
    write_image(
        mosaic, 15 + shape[1] / 1200, 33.0, sky, False, RMS_JY, shape, 6 / 3600, rng, beam_arcsec=30
    )
    Sidecar("mosaic", qa={"n_tiles": options.tiles, "beam_minor_arcsec": 25.0}).write(mosaic)
    rows = []
    for s in sources:
        rows += measure([s], [s["flux_jy"]], s["ra_deg"], start, night, RMS_JY, rng, "mosaic.fits")
    for row in rows:
        row["dec_deg"] += 33 - 16.1
    write_photometry(layout.night(night, "photometry.csv"), rows)
    Sidecar("photometry").write(layout.night(night, "photometry.csv"))
    return layout, night, ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiles", type=int, default=280)
    parser.add_argument("--size", type=int, default=2400, help="pixels of an image's side")
    parser.add_argument("--calibrators", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="folder to make the night in, and leave it there")
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp())
    layout, night, ids = make_night(root, options)
    folder = layout.night(night)
    rows = []
    pages = []
    for number, group in enumerate(ids):
        place = layout.group(group)
        if number < DIFFERENT:
            pages.append(step("tile_report", place, place / f"{group}.html"))
        else:  # the pages of the others would be the same
            for kind in ("html", "view.jpg", "thumbnail.jpg"):
                os.link(layout.group(ids[number % DIFFERENT], kind), layout.group(group, kind))
    size = np.mean([layout.group(g, "html").stat().st_size for g in ids[:DIFFERENT]])
    rows.append((f"page of a tile, {options.size} pixels", *np.median(pages, axis=0), size))
    made = []
    for group in ids[:: max(1, options.tiles // options.calibrators)][: options.calibrators]:
        place = layout.group(group)
        made.append(step("calibration_report", place, place / f"{group}.solutions.html"))
    size = (place / f"{group}.solutions.html").stat().st_size
    rows.append(("page of a calibration", *np.median(made, axis=0), size))
    view = folder / "mosaic.view.fits"
    made = step("mosaic_view", folder / "mosaic.fits", view)
    rows.append(("small copy of the mosaic", *made, view.stat().st_size))
    rows.append(("verdict (`night_qa`)", *step("night_qa", folder, folder / "qa.json"), None))
    rows[-1] = (*rows[-1][:-1], (folder / "qa.json").stat().st_size)
    page = folder / "report.html"
    made = step("night_report", folder, page)
    rows.append((f"page of the night, {options.tiles} tiles", *made, page.stat().st_size))
    print("| step | wall s | processor s | memory MB | size MB |\n|---|---|---|---|---|")
    for name, wall, used, memory, size in rows:
        print(f"| {name} | {wall:.1f} | {used:.1f} | {memory:.0f} | {size / 1e6:.2f} |")
    if not options.keep:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
