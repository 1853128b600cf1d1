"""Tiles at full size: raw files to photometry, what averaging costs, noise, depth, truth.

    python benchmarks/imaging.py

simulates a group (96 antennas, 768 channels, 24 integrations, 2.3 GB; 3C48 and 100 fainter
sources), runs the chain on it, each step a process as in the workflow, and keeps the tables in
``benchmarks/results/``; ``--page`` makes them the documentation's. Parts (``--parts``, all by
default; `chain` comes first):

chain
    group, convert, calibrate, apply, image (``standard``), photometry; image again with ``quick``.
full
    The same imaging, with the same WSClean settings, on data that were not averaged.
noise
    The chain on a field without sources.
deep
    ``deep`` on a field with a source of 10 Jy and gains that are wrong by 1 % and 1 degree.

With ``--folder`` data and figures stay, so that parts can be run one by one: ``deep``, which
self-calibrates, takes longer than all others together. Needs 15 GB of disk and 4 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from measure import ROOT

sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
#: A field at the same declination, observed with the same gains, without any source.
EMPTY = ("--calibrator", "", "--ra-deg", "60", "--dec-deg", "33.2", "--sources", "0")
#: Small data, to try the script.
SMALL = False
#: Parts of an image's time, and what they are called in the table.
IMAGE_PARTS = ("weights", "seeds", "imager", "restore", "beam", "noise", "catalogue", "write")


def step(name: str, *arguments: object) -> dict[str, float]:
    """Run a step in a process of its own; return seconds and peak memory."""
    used = measure.step(name, *arguments)
    run = {"seconds": used.seconds, "cpu_s": used.cpu_s, "peak_gb": used.peak_mb * 1024 / 1e6}
    print(f"{name:<12}{run['seconds']:7.1f} s {run['peak_gb']:5.2f} GB", flush=True)
    return run


def sidecar(product: Path) -> dict[str, Any]:
    return json.loads(Path(f"{product}.json").read_text(encoding="utf-8"))


def simulated(raw: Path, *options: str) -> str:
    """Simulate a group unless it is there; return its id."""
    if not (raw / "truth" / "truth.json").exists():
        size = ["--preset", "test", "--tiles", "1"] if SMALL else ["--preset", "full"]
        measure.contimg("simulate", *size, *options, raw)
    (gains,) = (raw / "truth").glob("*.gains.npz")
    return gains.name.removesuffix(".gains.npz")


def convert(folder: Path, raw: Path, group: str) -> dict[str, dict]:
    """Make the Measurement Set of a simulated group."""
    ms, file = folder / f"{group}.ms", folder / f"group_{group}.hdf5"
    for made in (ms, file):
        shutil.rmtree(made, ignore_errors=True)
    file.unlink(missing_ok=True)
    runs = {
        "group": step("group", file, *sorted((raw / "incoming").glob("*.hdf5"))),
        "convert and flag": step("convert", file, ms),
    }
    runs["convert and flag"]["of"] = sidecar(ms)["timings_s"]
    return runs


def image(ms: Path, prefix: Path, *options: object) -> dict[str, Any]:
    """Make an image; return the run with its parts and the tile's figures."""
    shutil.rmtree(prefix.parent, ignore_errors=True)
    if SMALL:
        options = (*options, "--size-px", "1200", "--cell-arcsec", "12")
    run: dict[str, Any] = step("image", ms, prefix, "--threads", os.cpu_count(), *options)
    record = sidecar(prefix.with_name(f"{prefix.name}.image.fits"))
    qa = record["qa"]
    return run | {
        "of": record["timings_s"],
        "peak_gb": max(run["peak_gb"], qa["imager_peak_memory_gb"]),
        "rms_jy": qa["rms_jy"],
        "over_thermal": qa["rms_over_thermal"],
        "dynamic_range": qa["dynamic_range"],
        "verdict": record["verdict"],
    }


def fluxes(prefix: Path, catalog: Path):
    """Return the photometry of sources expected above 20 sigma inside 30 % of the beam."""
    from dsa110_contimg.catalogs.catalogue import read_catalog
    from dsa110_contimg.core.options import PhotometryOptions
    from dsa110_contimg.photometry import images as photometry_images
    from dsa110_contimg.photometry import measure as photometry

    with photometry_images.open_planes(prefix.with_name(f"{prefix.name}.image.fits")) as planes:
        options = PhotometryOptions(pb_limit=0.3, min_flux_jy=0)
        table = photometry.measure(planes[0], read_catalog(catalog), options)
        table.attrs["beam_arcsec"] = 3600 * planes[0].beam_deg[1]
        table.attrs["centre_deg"] = list(map(float, planes[0].wcs.wcs.crval))
    bright = table.catalog_flux_jy > 20 * table.local_rms_jy
    return table[bright & (table["flags"] == "")].set_index("source_id")


def compare(table, truth) -> dict[str, Any]:
    """Return median and scatter of flux ratios, their trends (per degree), and offsets."""
    import numpy as np
    from scipy.stats import theilslopes

    from dsa110_contimg.core import robust

    ratio = (table.flux_jy / truth).dropna().to_numpy()
    ra0, dec0 = table.attrs["centre_deg"]
    east = ((table.ra_deg - ra0 + 180) % 360 - 180) * np.cos(np.deg2rad(table.dec_deg))
    north = table.dec_deg - dec0
    trends = {}
    for name, by in (("distance", np.hypot(east, north)), ("east", east), ("north", north)):
        slope, _, low, high = theilslopes(ratio, by, alpha=0.68)
        trends[name] = [float(slope), float(high - low) / 2]
    shift = 3600 * np.hypot(table.shift_ra_deg, table.shift_dec_deg)
    median = float(np.median(ratio))
    return {
        "n": len(ratio),
        "median": median,
        "scatter": float(robust.sigma(ratio, median)),
        "trends": trends,
        "shift_arcsec": float(np.median(shift)),
        "beam_arcsec": table.attrs["beam_arcsec"],
    }


# --- parts ----------------------------------------------------------------------------------------


def run_chain(folder: Path) -> dict[str, Any]:
    raw = folder / "sky"
    group = simulated(raw)
    catalog = ["--catalog", raw / "catalog.csv"]
    runs: dict[str, Any] = convert(folder, raw, group)
    ms, averaged = folder / f"{group}.ms", folder / "averaged" / f"{group}.cal.ms"
    calibrated = step("calibrate", ms, folder / group, "--calibrator", "3C48", *catalog)
    shutil.rmtree(averaged.parent, ignore_errors=True)
    averaged.parent.mkdir()
    runs["apply and average"] = step("apply", ms, averaged, "--candidate", folder / group)
    record = sidecar(averaged)
    runs["apply and average"]["of"] = record["timings_s"]
    prefix = {preset: folder / preset / group for preset in ("standard", "quick")}
    runs["image, `standard`"] = image(averaged, prefix["standard"], *catalog)
    table = folder / "standard" / f"{group}.photometry.csv"
    source = prefix["standard"].with_name(f"{group}.image.fits")
    runs["photometry"] = step("photometry", source, table, *catalog)
    quick = image(averaged, prefix["quick"], *catalog, "--preset", "quick")
    bright = fluxes(prefix["standard"], raw / "catalog.csv")
    return {
        "group": group,
        "calibrate": calibrated,
        "runs": runs,
        "quick": quick,
        "averaging": record["qa"]["averaging"],
        "truth": compare(bright, bright.catalog_flux_jy),
    }


def run_full(folder: Path) -> dict[str, Any]:
    group = simulated(folder / "sky")
    catalog, ms = folder / "sky" / "catalog.csv", folder / "full" / f"{group}.cal.ms"
    shutil.rmtree(ms.parent, ignore_errors=True)
    ms.parent.mkdir()
    candidate = ["--candidate", folder / group]
    applied = step("apply", folder / f"{group}.ms", ms, *candidate, "--max-smearing", "0")
    prefix = folder / "standard-full" / group
    run = image(ms, prefix, "--catalog", catalog)
    shutil.rmtree(ms.parent)
    reference = fluxes(prefix, catalog)
    return {
        "apply": applied,
        "image": run,
        "truth": compare(reference, reference.catalog_flux_jy),
        "ratios": {
            preset: compare(table, reference.flux_jy.reindex(table.index))
            for preset in ("standard", "quick")
            for table in [fluxes(folder / preset / group, catalog)]
            for table in [table[table.index.isin(reference.index)]]
        },
    }


def run_noise(folder: Path) -> dict[str, Any]:
    raw, work = folder / "empty", folder / "noise"
    group, calibrator = simulated(raw, *EMPTY), simulated(folder / "sky")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    convert(work, raw, group)
    averaged = work / f"{group}.cal.ms"
    step("apply", work / f"{group}.ms", averaged, "--candidate", folder / calibrator)
    run = image(averaged, work / "image" / group)
    shutil.rmtree(work)
    return run


def run_deep(folder: Path) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    from support import imaging_data

    rng, work = np.random.default_rng(7), folder / "bright"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    places = rng.uniform(-1.2, 1.2, (2, 29))
    sky = imaging_data.offsets_to_sky(
        np.append(0.11, places[0]),
        np.append(-0.07, places[1]),
        np.append(10.0, 10 ** rng.uniform(-2, -0.3, 29)),
    )
    ms, catalog = work / "20260128T213600.cal.ms", work / "catalog.csv"
    n_antennas, n_channels, n_times = (32, 8, 4) if SMALL else (96, 128, 24)
    size = {"n_antennas": n_antennas, "n_channels": n_channels, "n_times": n_times}
    imaging_data.write_tile(ms, sky, noise=True, gain_error=(0.01, 1.0), **size)
    pd.DataFrame(
        {
            "name": [f"s{k}" for k in range(30)],
            "ra_deg": sky.ra_deg,
            "dec_deg": sky.dec_deg,
            "flux_jy": sky.flux_jy * rng.normal(1, 0.1, 30),
            "alpha": 0.0,
        }
    ).to_csv(catalog, index=False)
    prefix = work / "image" / "20260128T213600"
    run = image(ms, prefix, "--preset", "deep", "--catalog", catalog)
    table = fluxes(prefix, catalog)
    truth = pd.Series(sky.flux_jy, index=[f"s{k}" for k in range(30)])
    run["truth"] = compare(table, truth.reindex(table.index))
    shutil.rmtree(work)
    return run


PARTS = {"chain": run_chain, "full": run_full, "noise": run_noise, "deep": run_deep}


# --- the page -------------------------------------------------------------------------------------


def page(results: dict[str, Any], command: str) -> str:
    """Return the page of the parts that there are."""
    lines = [
        "# Imaging",
        "",
        f"{measure.heading(command)}, load before each part {results['load']}. One run, each step "
        "a process, start-up included. A tile has 96 antennas, 768 channels and 24 integrations; "
        "3C48 (16 Jy) and 100 fainter sources are in the field. `quick` and `standard` make images "
        "of 2400 x 2400 pixels of 6 arcsec, `deep` of 4800 x 4800 of 3 arcsec. Peak memory is that "
        "of the largest process of a step. The text around these tables is in "
        "[imaging](../../science/imaging.md).",
    ]
    if chain := results.get("chain"):
        lines += ["", *_stages(chain)]
    lines += ["", *_images(results)]
    lines += ["", *_truths(results)]
    return "\n".join(lines) + "\n"


def _named(parts: dict[str, float], seconds: float) -> str:
    """Name a step's seconds, and what is left: interpreter, imports, reading, checks."""
    known = {k: v for k, v in parts.items() if k != "total"}
    known["start-up and rest"] = max(0.0, seconds - sum(known.values()))
    return ", ".join(f"{k.replace('_', ' ')} {v:.1f}" for k, v in known.items() if v >= 0.05)


def _stages(chain: dict[str, Any]) -> list[str]:
    lines = [
        "## Raw files to photometry",
        "",
        "| step | seconds | of which | processor s | peak memory, GB |",
        "|---|---|---|---|---|",
    ]
    for name, run in chain["runs"].items():
        of = _named(run.get("of", {}), run["seconds"]) if "of" in run else ""
        cells = name, f"{run['seconds']:.1f}", of, f"{run['cpu_s']:.1f}", f"{run['peak_gb']:.2f}"
        lines.append(f"| {' | '.join(cells)} |")
    total = sum(run["seconds"] for run in chain["runs"].values())
    lines.append(
        f"| **sum** | **{total:.1f}** | {309.2 / total:.1f} times as fast as the sky | | |"
    )
    before = total - sum(chain["runs"][k]["seconds"] for k in ("image, `standard`", "photometry"))
    calibrate = chain["calibrate"]
    return [
        *lines,
        "",
        f"With `quick` the image takes {chain['quick']['seconds']:.1f} s: raw files to image in "
        f"{before + chain['quick']['seconds']:.1f} s. Solving a calibrator's transit takes "
        f"{calibrate['seconds']:.1f} s and {calibrate['peak_gb']:.2f} GB. `apply` averages "
        f"{chain['averaging']['channels']} channels.",
    ]


def _images(results: dict[str, Any]) -> list[str]:
    lines = [
        "## Images",
        "",
        "| run | wall s | "
        + " | ".join(IMAGE_PARTS)
        + " | other | rms, mJy | rms / thermal | dynamic range | peak memory, GB |",
        "|---|---|" + "---|" * (len(IMAGE_PARTS) + 5),
    ]
    chain, full = results.get("chain"), results.get("full")
    runs = {}
    if chain:
        runs |= {"`quick`": chain["quick"], "`standard`": chain["runs"]["image, `standard`"]}
    if full:
        runs["`standard`, full resolution"] = full["image"]
    if "noise" in results:
        runs["`standard`, no sources"] = results["noise"]
    if "deep" in results:
        runs["`deep`, 10 Jy and gain errors"] = results["deep"]
    for name, run in runs.items():
        parts = [run["of"].get(part, 0.0) for part in IMAGE_PARTS]
        cells = [
            name,
            f"{run['seconds']:.1f}",
            *(f"{part:.1f}" for part in parts),
            f"{run['seconds'] - sum(parts):.1f}",
            f"{1e3 * run['rms_jy']:.3f}",
            f"{run['over_thermal']:.2f}",
            f"{run['dynamic_range']:.0f}",
            f"{run['peak_gb']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if chain and full:
        ours = chain["runs"]["image, `standard`"]
        lines += [
            "",
            f"On the averaged data `standard` is "
            f"{full['image']['seconds'] / ours['seconds']:.1f} times as fast as with the same "
            f"WSClean settings at full resolution (imager alone: "
            f"{full['image']['of']['imager'] / ours['of']['imager']:.1f}); `apply` without "
            f"averaging takes {full['apply']['seconds']:.1f} s.",
        ]
    return lines


def _truths(results: dict[str, Any]) -> list[str]:
    lines = [
        "## Fluxes and positions",
        "",
        "Sources expected above 20 sigma inside 30 % of the beam. Trends are changes of the flux "
        "ratio per degree (Theil and Sen's slopes).",
        "",
        "| fluxes of | over | sources | median | scatter | trend with distance | east | north "
        "| median position error, arcsec (beam) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    if chain := results.get("chain"):
        rows.append(("`standard`", "the sky", chain["truth"]))
    if full := results.get("full"):
        rows.append(("`standard`, full resolution", "the sky", full["truth"]))
        rows += [
            (f"`{preset}`", "full resolution", figures)
            for preset, figures in full["ratios"].items()
        ]
    if deep := results.get("deep"):
        rows.append(("`deep`, 10 Jy and gain errors", "the sky", deep["truth"]))
    for name, over, figures in rows:
        shift = figures["shift_arcsec"]
        trends = [f"{100 * s:+.2f} ± {100 * e:.2f} %" for s, e in figures["trends"].values()]
        cells = [
            name,
            over,
            str(figures["n"]),
            f"{figures['median']:.4f}",
            f"{100 * figures['scatter']:.2f} %",
            *trends,
            f"{shift:.2f} ({shift / figures['beam_arcsec']:.3f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="small data, to try the script")
    parser.add_argument("--folder", type=Path, help="where to put the data (default: temporary)")
    measure.add_page_option(parser)
    args = parser.parse_args()
    global SMALL
    SMALL = args.small
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "results.json"
        results = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        loads = results.get("loads", {})
        for name in args.parts:
            loads[name] = round(os.getloadavg()[0], 1)
            results[name] = PARTS[name](folder)
            results["loads"] = loads
            results["load"] = ", ".join(f"{load} ({part})" for part, load in loads.items())
            kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
            text = page(results, "python benchmarks/imaging.py")
            measure.keep("imaging", text, args.page and not SMALL)
    print(text)


if __name__ == "__main__":
    main()
