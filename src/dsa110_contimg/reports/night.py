"""The page of a night: one self-contained HTML file, for people.

The page opens from a file and asks nothing of the network; it reads without JavaScript, which only
sorts, filters and zooms. Verdict and figures come from ``qa.json``; images, calibration tables and
light curves are drawn from the products. A product that cannot be drawn leaves a note in its place.
"""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..core.errors import DataError
from ..core.figures import ConvertFigures, FlagStatistics, MosaicFigures
from ..core.files import write_text
from ..core.layout import Layout, companion
from ..core.provenance import commit
from ..core.sidecar import Record, vouch
from ..core.times import DAY_S, utc_now
from ..maps import planes as map_planes
from ..telescope.dsa110 import N_CHANNELS_SUBBAND, N_INTEGRATIONS, N_SUBBANDS, TILE_S, stations
from . import plots
from .judge import (
    GroupFiles,
    NightFiles,
    figures_of,
    judge_night,
    load_night,
    night_rows,
    read_failures,
    read_record,
    read_verdict,
)
from .pages import (
    UNITS,
    WORDS,
    clock,
    environment,
    fixed,
    is_number,
    mjy,
    percent,
    read_table,
    shown,
)

__all__ = ["build_night", "write_night"]

#: Most tiles whose large views the page holds.
MOST_VIEWS = 40


#: Most candidates with a light curve on the page.
MOST_CANDIDATES = 12


#: Last lines of a log that are shown.
LOG_LINES = 15


STEP_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#767676",
)


#: Stage a tile stopped after -> step whose log tells why, and the product it should have made.
NEXT_STEP = {
    "not begun": ("group", "hdf5"),
    "grouped": ("convert", "ms"),
    "converted": ("apply", "image.fits"),
    "calibration chosen": ("apply", "image.fits"),
    "calibrated": ("image", "image.fits"),
    "imaged": ("photometry", "photometry.csv"),
    "measured": ("image", "image.fits"),
}


UNITS |= {"s": "s", "ns": "ns"}


WORDS |= {"meas": "measurements", "wavg": "mean", "err": "error", "eta": "η", "v": "V"}


WORDS |= {"rms": "rms", "pa": "PA", "dec": "Dec", "refant": "reference antenna", "mjd": "MJD"}


# --- parts of the page ----------------------------------------------------------------------------


def timeline(tiles: list[dict], calibrations: list[dict]) -> dict[str, Any] | None:
    """Return the boxes of the timeline in a space 1000 wide: data, calibrators, gaps and ticks."""
    if not tiles:
        return None
    left, day = 90.0, TILE_S / DAY_S
    starts = [t["start_mjd"] for t in tiles]
    first, last = min(starts), max(starts) + day
    scale = (1000 - left - 10) / (last - first)

    def box(mjd: float, state: str, text: str, href: str, days: float = day) -> dict:
        return {
            "x": round(left + (mjd - first) * scale, 2),
            "width": round(max(days * scale, 1.5), 2),
            "state": state,
            "text": text,
            "href": href,
        }

    data, gaps, quiet = [], [], []
    for before, tile in zip([None, *tiles], tiles, strict=False):
        start = tile["start_mjd"]
        if before and start - before["start_mjd"] > 1.2 * day:
            end = before["start_mjd"] + day
            minutes = (start - end) * 1440
            quiet.append(f"{clock(end)} to {clock(start)} ({minutes:.0f} min)")
            gaps.append(box(end, "gap", f"no data for {minutes:.0f} min", "timeline", start - end))
        why = "; ".join(tile["reasons"][:3])
        text = f"{tile['group']}: {tile['state']}, {tile['stage']}" + (f" — {why}" if why else "")
        data.append(box(start, tile["state"], text, f"t{tile['group']}"))
    solved = [
        box(
            c["start_mjd"],
            c["verdict"],
            f"{c['calibrator'] or 'calibrator'} {c['group']}: {c['verdict']}",
            f"c{c['group']}",
        )
        for c in calibrations
    ]
    rows = [{"label": "tiles", "y": 24, "boxes": gaps + data}]
    if solved:
        rows.append({"label": "calibrators", "y": 52, "boxes": solved})
    return {
        "rows": rows,
        "gaps": quiet,
        "height": 24 + 28 * len(rows) + 4,
        "ticks": [
            {"x": round(left + (mjd - first) * scale, 2), "text": text}
            for mjd, text in _ticks(first, last)
        ],
    }


def _ticks(first: float, last: float) -> list[tuple[float, str]]:
    """Return about eight round times between two MJD, with their clock."""
    minutes = (last - first) * 1440
    step = next((s for s in (5, 10, 15, 30, 60, 120, 180, 240) if minutes / s <= 9), 360)
    marks = range(int(-(-first * 1440 // step)), int(last * 1440 // step) + 1)
    return [(m * step / 1440, clock(m * step / 1440)[:5]) for m in marks]


def pictures(night_dir: Path, tiles: list[dict]) -> list[str]:
    """Give each tile its ``page``, ``thumbnail`` and ``view``, as far as they are there.

    They are made with the tile's own page. Large views of all tiles of a long night would make the
    page too large; it holds those of the tiles that need attention most.

    Returns
    -------
    list of str
        Notes on what is absent.
    """

    def kept(tile: dict, kind: str) -> Path:
        return night_dir / "groups" / tile["group"] / f"{tile['group']}.{kind}"

    viewed = sorted((t for t in tiles if kept(t, "view.jpg").exists()), key=_attention)
    chosen = {t["group"] for t in viewed[:MOST_VIEWS]}
    for tile in tiles:
        page = kept(tile, "html")
        tile["page"] = str(page.relative_to(night_dir)) if page.exists() else None
        tile["thumbnail"] = _jpeg_uri(kept(tile, "thumbnail.jpg"))
        tile["view"] = _jpeg_uri(kept(tile, "view.jpg")) if tile["group"] in chosen else None
    bare = sum(t["stage"] in ("imaged", "measured") and not t["thumbnail"] for t in tiles)
    return [f"{bare} tiles have no page and no pictures yet"] if bare else []


def _attention(tile: dict) -> tuple[int, float]:
    """Return what sorts tiles by the attention they need: failed, warned, then the noisiest."""
    order = ("fail", "warn", "pass", "missing", "waiting")
    return order.index(tile["state"]), -(tile["noise_ratio"] or 0)


def _jpeg_uri(path: Path) -> str | None:
    return plots.image_uri(path.read_bytes()) if path.exists() else None


#: Figures of a calibration that its heading or the tile table tells already.
_KNOWN = ("group", "calibrator", "calibrator_ra_deg", "calibrator_dec_deg", "dec_app_deg", "mjd")


def _calibrations(night_dir: Path, calibrations: list[dict]) -> list[dict]:
    """Add the figure that the solving step drew, and the place of the calibration's own page."""
    out = []
    for calibration in calibrations:
        group = calibration["group"]
        stem = night_dir / "groups" / group / group
        page, own = (stem.with_name(f"{group}.{k}") for k in ("solutions.html", "calibration.png"))
        merits = {
            k.removesuffix("_effective"): v
            for k, v in calibration["figures"].items()
            if k not in _KNOWN and f"{k}_effective" not in calibration["figures"]
        }
        out.append(
            calibration
            | {
                "figures_of_merit": merits,
                "page": str(page.relative_to(night_dir)) if page.exists() else None,
                "own": plots.png(own.read_bytes()) if own.exists() else None,
            }
        )
    return out


def _mosaics(
    night_dir: Path, record: Record | None, rows: list[dict], variables: set[str]
) -> list[dict]:
    """Return the mosaic of the night with its views (one a strip)."""
    path = night_dir / "mosaic.fits"
    if record is None and not path.exists():
        return []
    figures = figures_of(record, MosaicFigures)
    shown: dict[str, Any] = {
        "name": "mosaic.fits",
        "verdict": record and record.verdict,
        "reasons": record.reasons if record else [],
        "numbers": figures.single() if figures else {},
        "left_out": [f"{e.tile} ({e.reason})" for e in figures.left_out] if figures else [],
        "views": [],
        "notes": [],
    }
    small = companion(path, "view")
    try:
        planes = map_planes.read_planes(small) if small.exists() else []
    except DataError as error:
        shown["notes"].append(str(error))
        planes = []
    if path.exists() and not planes:
        shown["notes"].append("The small copy of the mosaic, mosaic.view.fits, cannot be shown.")
    for number, plane in enumerate(planes):
        shown["views"].append(_view(f"mosaic{number}", plane, rows, variables))
    return [shown]


def _or_none(values: np.ndarray) -> list:
    """Return values as JSON can hold them: None where they are not finite."""
    out = values.astype(object)
    out[~np.isfinite(values)] = None
    return out.tolist()


def _view(
    name: str, plane: map_planes.Plane, rows: list[dict], variables: set[str]
) -> dict[str, Any]:
    """Return image, overlays and coordinate grid of one strip; y counts from the top."""
    noise = (plane.header["MIDDLE"], plane.header["NOISE"])
    content, low, high = plots.jpeg(np.asarray(plane.data), noise, quality=86)
    ny, nx = plane.data.shape
    wcs = plane.wcs()

    # Edges of pixels, from the upper left corner, in steps that follow the curvature well.
    grid_x = np.linspace(0, nx, 33) - 0.5
    grid_y = (ny - np.linspace(0, ny, 17)) - 0.5
    ra, dec = wcs.pixel_to_world_values(*np.meshgrid(grid_x, grid_y))
    middle = ra[8, 16]
    ra = np.round(middle + (ra - middle + 180) % 360 - 180, 5)
    grid = {
        "nx": grid_x.size,
        "ny": grid_y.size,
        "ra": _or_none(ra),
        "dec": _or_none(np.round(dec, 5)),
    }
    sources = []
    if rows:
        x, y = wcs.world_to_pixel_values([r["ra_deg"] for r in rows], [r["dec_deg"] for r in rows])
        for row, u, v in zip(rows, x + 0.5, ny - (y + 0.5), strict=True):
            kind = _source_kind(row, variables)
            if kind and 0 <= u <= nx and 0 <= v <= ny:
                ratio = row["flux_jy"] / row["catalog_flux_jy"] if row["catalog_flux_jy"] else None
                sources.append(
                    {
                        "x": round(float(u), 1),
                        "y": round(float(v), 1),
                        "kind": kind,
                        "text": f"{row['name']}: {mjy(row['flux_jy'])} ± {mjy(row['flux_err_jy'])}"
                        f" mJy, {fixed(ratio, 3)} of the catalogue",
                    }
                )
    return {
        "id": name,
        "uri": plots.image_uri(content),
        "low": low,
        "high": high,
        "width": nx,
        "height": ny,
        "radius": round(max(nx, ny) / 130, 1),
        "sources": sources,
        "grid": grid,
    }


def _source_kind(row: dict, variables: set[str]) -> str | None:
    """Return how a source is marked on the mosaic; None leaves it out."""
    if row["flux_jy"] is None or row["flux_err_jy"] is None:
        return None
    if row["source_id"] in variables:
        return "candidate"
    if (row["snr"] or 0) >= 5:
        return "seen"
    if (row["catalog_flux_jy"] or 0) >= 10 * (row["local_rms_jy"] or np.inf):
        return "lost"
    return None


def _failures(night_dir: Path, judged: dict) -> list[dict]:
    """Return what failed or has no image, with the end of the log and the command.

    First jobs of all nights together and of this night, which hold up most; then the groups: by the
    record of the failed job where there is one, else by the stage that the tile reached.
    """
    results = night_dir.parent.parent
    layout = Layout(Path(shown(results)))
    recorded = list(read_failures(results).values())
    recorded += sorted(judged.get("failures", []), key=lambda f: "group" in f.get("wildcards", {}))
    out = [_recorded(f, results, judged["night"]) for f in recorded]
    known = {f["group"] for f in out}
    for tile in judged["tiles"]:
        if tile["state"] not in ("fail", "missing") or tile["group"] in known:
            continue
        group = tile["group"]
        step, product = NEXT_STEP.get(tile["stage"], ("image", "image.fits"))
        log = results / "logs" / step / judged["night"] / f"{group}.log"
        again = " -- --force" if tile["state"] == "fail" else ""
        tail = _tail(log)
        out.append(
            {
                "group": group,
                "title": group,
                "state": tile["state"],
                "reasons": tile["reasons"],
                "when": "",
                "log_path": shown(log),
                "log": tail,
                "cause": cause(tail) if tile["state"] == "missing" else "",
                "command": f"./contimg run {shlex.quote(str(layout.group(group, product)))}{again}",
            }
        )
    return out


#: Causes of failed jobs, in words.
CAUSES = {
    "data": "the data cannot be used",
    "compute": "a program crashed, hung, or ran out of memory or time",
    "transient": "disk, network or an absent program: likely to pass",
    "config": "a wrong option",
    "bug": "an error that was not foreseen: please report it",
}


def _recorded(failure: dict, results: Path, night: str) -> dict[str, Any]:
    """Return what the page says of a failed job that left a record."""
    wildcards = failure.get("wildcards") or {}
    group = wildcards.get("group", "")
    log = _log_of(failure.get("log", ""), results)
    first, last = failure.get("first_utc", ""), failure.get("last_utc", "")
    when = f"{last} UTC" if first == last else f"first {first}, last {last} UTC"
    place = group or (f"hour {wildcards['hour']}" if wildcards.get("hour") else "")
    place = place or ("the night" if wildcards.get("night") else "all nights")
    return {
        "group": group,
        "title": f"{place}: {failure.get('rule', 'a job')}",
        "state": "quarantined" if failure.get("state") == "quarantined" else "retry",
        "reasons": [failure.get("message", "")],
        "when": f"{failure.get('attempts', 1)} × failed; {when}".replace("+00:00", ""),
        "log_path": shown(log) if log else "",
        "log": _tail(log) if log else "",
        "cause": CAUSES.get(failure.get("cause", ""), failure.get("cause", "")),
        "command": failure.get("command", ""),
    }


def _log_of(name: str, results: Path) -> Path | None:
    """Return the log of a job, also where the results folder has moved since."""
    if not name:
        return None
    path = Path(name)
    inside = re.search(r"(?:^|/)(logs/.+)$", name)
    return results / inside[1] if inside and not path.exists() else path


#: What a line of a log means, and what to do about it.
_CAUSES = (
    ("No space left on device", "the disk is full: free some space, then repeat"),
    ("Disk quota exceeded", "the disk quota is used up: free some space, then repeat"),
    ("MemoryError", "the job ran out of memory: run fewer jobs at a time, or image fewer pixels"),
    ("Killed", "the job was killed, most likely for want of memory: run fewer jobs at a time"),
    ("Permission denied", "a file may not be written: check the owner of the results folder"),
    ("Segmentation fault", "a program crashed: repeat it, and report it if it crashes again"),
)


def cause(log: str) -> str:
    """Say in plain words why a job stopped, as far as the end of its log tells.

    A line of this package's own (``contimg <step>: ...``) says it already; then come faults of the
    machine; else it is the last line.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if re.match(r"contimg [\w-]+: ", line):
            return line.split(": ", 1)[1]
    for sign, meaning in _CAUSES:
        if sign in log:
            return meaning
    return lines[-1] if lines else ""


def _tail(path: Path) -> str:
    """Return the last lines of a log; nothing where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 8192))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    return "\n".join(line[:300] for line in lines[-LOG_LINES:])


#: What the table of candidates shows; the rest is in ``candidates.csv`` and on the source's page.
_CANDIDATE_COLUMNS = (
    *("rank", "name", "ra_deg", "dec_deg", "n_meas", "wavg_flux_jy", "eta", "v", "vs_max"),
    *("log10_false_alarm", "template", "template_amplitude"),
)


def _candidates(folder: Path | None, night_dir: Path) -> dict[str, Any]:
    """Return the candidates with light curves and cut-outs, and the plane of all sources."""
    nothing: dict[str, Any] = {
        "rows": [],
        "columns": [],
        "plot": None,
        "note": "No light curves yet.",
        "ids": set(),
    }
    if folder is None or not (folder / "candidates.csv").exists():
        return nothing
    import pandas as pd

    listed = read_table(folder / "candidates.csv")
    everything = read_table(folder / "variability.csv")
    record = read_record(folder / "lightcurves.parquet")
    limits = record.parameters if record else {}
    plot = plots.variability_plane(
        everything, limits.get("eta_threshold", 2.5), limits.get("v_threshold", 0.1)
    )
    known = list(listed[0]) if listed else []
    columns = [
        {"name": name, "numeric": any(is_number(r[name]) for r in listed)}
        for name in [n for n in _CANDIDATE_COLUMNS if n in known] or known
    ]
    rows = [
        {
            "source_id": r["source_id"],
            "name": r.get("name") or r["source_id"],
            "fields": r,
            "curve": None,
            "cutout": None,
        }
        for r in listed
    ]
    if rows and (folder / "lightcurves.parquet").exists():
        curves = pd.read_parquet(folder / "lightcurves.parquet")
        for row in rows[:MOST_CANDIDATES]:
            points = curves[curves.source_id.astype(str) == row["source_id"]].sort_values("mjd")
            if len(points):
                limit = points.get("upper_limit_jy")
                row["curve"] = plots.light_curve(
                    points.mjd, points.flux_jy, points.flux_err_jy, limit
                )
        _cutouts(rows[:MOST_CANDIDATES], night_dir / "mosaic.fits")
    note = "" if rows else "No source passes the thresholds for variability."
    return {
        "rows": rows,
        "columns": columns,
        "plot": plot,
        "note": note,
        "ids": {r["source_id"] for r in rows},
    }


def _cutouts(rows: list[dict], mosaic: Path) -> None:
    """Give candidates a piece of the mosaic of this night."""
    if not mosaic.exists():
        return
    planes = map_planes.read_planes(mosaic)
    for row in rows:
        ra, dec = row["fields"].get("ra_deg"), row["fields"].get("dec_deg")
        if ra is None or dec is None:
            continue
        parts = (plots.cutout(plane, ra, dec) for plane in planes)
        part = next((p for p in parts if p is not None), None)
        if part is not None:
            content, _, high = plots.jpeg(part)
            row["cutout"] = {"uri": plots.image_uri(content), "high": high}


def _timing(judged: dict) -> dict[str, Any] | None:
    """Return the bar of median seconds a step and what it says."""
    timings = judged["timings"]
    parts = [
        (step, s["median_s"])
        for step, s in timings["steps"].items()
        if not step.endswith("(night)") and step != "calibrate"
    ]
    if not parts:
        return None
    total = sum(seconds for _, seconds in parts)
    width = max(total, timings["tile_duration_s"])
    factor = timings["real_time_factor"]
    said = (
        f"A median tile took {timings['tile_median_s']:.0f} s from raw files to photometry"
        if factor
        else ""
    )
    if factor:
        said += (
            f", {factor:.1f} times faster than the telescope records it."
            if factor >= 1
            else f": slower than the telescope records it ({1 / factor:.1f} times real time)."
        )
        said += " Times are those the steps measured themselves, one tile after the other."
        said += _size(judged["tiles"])
    return {
        "words": said,
        "width_s": width,
        "parts": [
            {
                "step": step,
                "seconds": seconds,
                "share": round(100 * seconds / width, 2),
                "colour": STEP_COLOURS[i % len(STEP_COLOURS)],
                "ink": "#fff" if i % len(STEP_COLOURS) in (0, 2, 5, 7) else "#000",
            }
            for i, (step, seconds) in enumerate(parts)
        ],
    }


def _size(tiles: list[dict]) -> str:
    """Say how large the data are where that is not the whole array: times follow from it."""
    known = [t for t in tiles if t["n_antennas"] and t["n_channels"] and t["n_integrations"]]
    if not known:
        return ""
    size = [max(t[k] for t in known) for k in ("n_antennas", "n_channels", "n_integrations")]
    whole = (int(stations().active.sum()), N_SUBBANDS * N_CHANNELS_SUBBAND, N_INTEGRATIONS)
    share = np.prod([n / m for n, m in zip(size, whole, strict=True)])
    if share > 0.8:
        return ""
    return (
        f" These data are {share:.0%} of the whole array's: {size[0]:.0f} antennas, {size[1]:.0f} "
        f"channels and {size[2]:.0f} integrations instead of {whole[0]}, {whole[1]} and {whole[2]}."
    )


def _memory(night_dir: Path, night: str) -> dict[str, float]:
    """Return the peak resident memory of each step, MB, from Snakemake's benchmark files."""
    peak: dict[str, float] = {}
    for path in (night_dir.parent.parent / "benchmarks").glob(f"*/{night}/*.tsv"):
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                try:
                    used = float(row.get("max_rss") or "")
                except ValueError:  # "-" or "NA" where a job was too short to be sampled
                    continue
                step = path.parent.parent.name
                peak[step] = max(peak.get(step, 0.0), used)
    return peak


def _flags(found: NightFiles, tiles: list[dict]) -> dict[str, FlagStatistics | None]:
    """Return the flag statistics of each tile, None where it was not converted."""
    nothing = GroupFiles()
    converted = {
        t["group"]: found.groups.get(t["group"], nothing).figures("ms", ConvertFigures)
        for t in tiles
    }
    return {name: figures.flags if figures else None for name, figures in converted.items()}


def _other_mosaics(found: NightFiles) -> list[dict[str, Any]]:
    """Return what is said of the mosaics of hours."""
    return [
        {"name": name, "verdict": record.verdict, "reasons": record.reasons, "figures": figures}
        for name, record in found.mosaics.items()
        if name != "mosaic.fits" and (figures := figures_of(record, MosaicFigures))
    ]


def _parameters(found: NightFiles) -> dict[str, dict]:
    """Return the options of each step, from the first sidecar that tells."""
    out: dict[str, dict] = {}
    for record in (*found.of_groups, *found.mosaics.values()):
        if record.parameters:
            out.setdefault(record.step, record.parameters)
    return out


def _cards(judged: dict) -> list[dict[str, str]]:
    counts, scale, timings = judged["counts"], judged["flux_scale"], judged["timings"]
    usable = [t for t in judged["tiles"] if t["state"] in ("pass", "warn") and t["rms_jy"]]
    rms = np.median([t["rms_jy"] for t in usable]) if usable else None
    ratio = [t["noise_ratio"] for t in usable if t["noise_ratio"]]
    cards = [
        (f"{counts['pass'] + counts['warn']} / {counts['groups']}", "tiles usable"),
        (f"{counts['groups'] * TILE_S / 3600:.1f} h", "observed"),
        (f"{counts['usable_calibrations']} / {counts['calibrations']}", "calibrations usable"),
        (mjy(rms), "mJy/beam, median tile noise"),
        (fixed(np.median(ratio) if ratio else None, 1), "times thermal noise"),
        (fixed(scale["median_ratio"], 3), "flux scale / catalogue"),
        (percent(scale["completeness"]), "complete above 10 sigma"),
        (str(counts["measurements"]), f"sources measured ({scale['source']})"),
        (f"{fixed(timings['real_time_factor'], 1)} ×", "real time"),
    ]
    return [{"value": value, "label": label} for value, label in cards]


def _flux_words(scale: dict) -> str:
    if scale["median_ratio"] is None:
        return "No isolated source above 10 sigma: the flux scale cannot be checked."
    said = (
        f"Measured fluxes are {scale['median_ratio']:.3f} ± {scale['median_error']:.3f} of the "
        f"catalogue ({scale['n']} isolated sources above 10 sigma, scatter {scale['scatter']:.1%})."
    )
    if scale["completeness"] is not None:
        said += (
            f" Of {scale['expected']} sources expected above 10 sigma, {scale['detected']} were "
            f"detected ({scale['completeness']:.1%})."
        )
    return said


def _astrometry_words(astrometry: dict | None) -> str:
    if not astrometry:
        return ""
    return (
        f" Median offset {astrometry['ra_offset_arcsec']:+.2f}″ in RA, "
        f"{astrometry['dec_offset_arcsec']:+.2f}″ in Dec (± {astrometry['error_arcsec']:.2f}″, "
        f"{astrometry['n']} sources)."
    )


SECTIONS = [
    ("verdict", "Verdict"),
    ("timeline", "Night"),
    ("tiles", "Tiles"),
    ("failures", "Failures"),
    ("calibration", "Calibration"),
    ("mosaic", "Mosaic"),
    ("fluxes", "Flux, astrometry, noise"),
    ("candidates", "Variables"),
    ("timings", "Time"),
    ("provenance", "Provenance"),
]


def build_night(night_dir: Path, lightcurves: Path | None = None) -> str:
    """Return the page of a night.

    Parameters
    ----------
    night_dir : Path
        ``results/nights/<YYYY-MM-DD>``; its ``qa.json`` is used where there is one.
    lightcurves : Path, optional
        Folder of the light curves.

    Raises
    ------
    DataError
        If the folder is absent.
    """
    night_dir = Path(night_dir).resolve()
    judged = read_verdict(night_dir) or judge_night(night_dir)
    rows, _ = night_rows(night_dir, judged["tiles"])
    found = load_night(night_dir)
    flags = _flags(found, judged["tiles"])
    with plots.style():
        notes = pictures(night_dir, judged["tiles"])
        for tile in judged["tiles"]:
            tile["total_s"] = sum(s for k, s in tile["seconds"].items() if k != "calibrate") or None
        variables = _candidates(lightcurves, night_dir)
        mosaic = found.mosaics.get("mosaic.fits")
        mosaics = _mosaics(night_dir, mosaic, rows, variables["ids"])
        drawn = {
            "flux_scale": plots.flux_scale(rows, judged["gates"]["max_flux_offset"]),
            "noise": plots.noise(judged["tiles"]),
            "completeness": plots.completeness(rows),
            "astrometry": plots.astrometry((judged["astrometry"] or {}).get("brightest", [])),
            "variability": variables["plot"],
            "flags": plots.flags(flags),
        }
        calibrations = _calibrations(night_dir, judged["calibrations"])
    return (
        environment()
        .get_template("night.html.j2")
        .render(
            qa=judged,
            cards=_cards(judged),
            sections=SECTIONS,
            tile_notes=notes,
            n_views=sum(bool(t["view"]) for t in judged["tiles"]),
            timeline=timeline(judged["tiles"], judged["calibrations"]),
            failures=_failures(night_dir, judged),
            calibrations=calibrations,
            mosaics=mosaics,
            other_mosaics=_other_mosaics(found),
            flux_words=_flux_words(judged["flux_scale"]),
            astrometry_words=_astrometry_words(judged["astrometry"]),
            plots=drawn,
            candidates=variables["rows"],
            candidate_columns=variables["columns"],
            candidates_note=variables["note"],
            timing=_timing(judged),
            memory=dict.fromkeys(judged["timings"]["steps"]) | _memory(night_dir, judged["night"]),
            parameters=_parameters(found),
            made_utc=utc_now(),
            folder=shown(night_dir),
            commit=commit(),
            version=__version__,
        )
    )


def write_night(folder: Path, out: Path, lightcurves: Path | None = None) -> int:
    """Write the page of a night; return its size, bytes."""
    page = build_night(folder, lightcurves)
    write_text(out, page)
    shown = [folder / "qa.json", folder / "mosaic.view.fits"]
    if lightcurves:
        shown += [lightcurves / name for name in ("variability.csv", "candidates.csv")]
    vouch("night_report", out, shown)
    return len(page)
