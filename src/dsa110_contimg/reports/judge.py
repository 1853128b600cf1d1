"""Verdict on a night, from the sidecars of its products.

Nothing here opens an image or a Measurement Set: a night of 280 tiles is judged in about a second
from a few thousand small files. The result (``qa.json``) is what the report page, the index and the
alerts read, so that all of them say the same.

The verdict of a night is one of three:

``clean``
    every complete group became an image that passed its gate, and the flux scale holds;
``degraded``
    there is science in the night, but something needs attention; the reasons say what;
``failed``
    no usable tile, or no usable mosaic.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core import robust
from ..core.errors import DataError
from ..core.figures import (
    ConvertFigures,
    GroupFigures,
    ImageFigures,
    MedianOffset,
    MosaicFigures,
    PhotometryFigures,
)
from ..core.files import write_text
from ..core.options import QaOptions
from ..core.sidecar import F, Record, read_sidecar, vouch
from ..core.times import DAY_S, group_mjd, utc_now
from ..telescope.dsa110 import TILE_S

__all__ = [
    "STAGES",
    "TABLES",
    "GroupFiles",
    "NightFiles",
    "dig",
    "figures_of",
    "judge_calibration",
    "judge_night",
    "judge_tile",
    "load_group",
    "load_night",
    "night_rows",
    "read_failures",
    "read_json",
    "read_photometry",
    "read_record",
    "read_verdict",
    "seconds_of",
    "worst",
    "write_verdict",
]

SCHEMA = 1
#: Products of a tile in the order of the chain, and what a reader calls them.
STAGES = {
    "hdf5": "grouped",
    "ms": "converted",
    "calibration": "calibration chosen",
    "cal.ms": "calibrated",
    "image.fits": "imaged",
    "photometry.csv": "measured",
}
#: What the reasons of a product begin with.
NOUNS = {
    "hdf5": "group",
    "ms": "conversion",
    "calibration": "calibration",
    "cal.ms": "calibration",
    "image.fits": "image",
    "photometry.csv": "photometry",
}
#: Steps of a tile, in the order of the chain.
STEPS = ("group", "convert", "calibrate", "apply", "image", "photometry")
TABLES = ("kcal", "bcal", "gcal")
#: A pointing error below this many standard deviations is none.
POINTING_SIGMA = 5.0
_ORDER = ("pass", "warn", "fail")


def worst(verdicts: Iterable[str | None]) -> str:
    """Return the worst of some verdicts (``pass`` < ``warn`` < ``fail``); none gives ``pass``."""
    return max((v for v in verdicts if v), key=_ORDER.index, default="pass")


def read_json(path: Path) -> dict | None:
    """Return what a JSON file holds, or None where it is absent or damaged.

    A damaged sidecar means the same as an absent one to whoever judges a night: the product cannot
    be vouched for.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_record(product: Path) -> Record | None:
    """Return the sidecar of a product, or None where it is absent or damaged."""
    try:
        return read_sidecar(product)
    except DataError:
        return None


def figures_of(record: Record | None, kind: type[F]) -> F | None:
    """Return the figures of a sidecar that is there, and of that kind."""
    return record.figures if record and isinstance(record.figures, kind) else None


def read_verdict(folder: Path) -> dict[str, Any] | None:
    """Return the verdict on a night (``qa.json``); None where it is absent, damaged or partial."""
    judged = read_json(folder / "qa.json") or {}
    lists = all(isinstance(judged.get(key), list) for key in ("tiles", "reasons", "calibrations"))
    maps = all(isinstance(judged.get(key), dict) for key in ("counts", "flux_scale", "timings"))
    return judged if lists and maps else None


def read_failures(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of failed jobs in a folder, by file name; damaged ones are passed over."""
    found = {path.name: read_json(path) for path in sorted(folder.glob("failure*.json"))}
    return {name: failure for name, failure in found.items() if failure}


@dataclass
class GroupFiles:
    """What the small files in a group's folder say.

    Attributes
    ----------
    products : dict
        Kind of product (``hdf5``, ``ms``, ``kcal`` ..., ``image.fits``, ``photometry.csv``) to its
        sidecar.
    choice : dict or None
        Which calibration was chosen (``calibration.json``).
    failures : dict
        The records of jobs that failed, by name: ``failure`` of the tile, others of what it goes
        on without.
    damaged : list of str
        Names of files that cannot be read.
    """

    products: dict[str, Record] = field(default_factory=dict)
    choice: dict[str, Any] | None = None
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def figures(self, product: str, kind: type[F]) -> F | None:
        """Return the figures of a product; None where it has no sidecar."""
        return figures_of(self.products.get(product), kind)


def load_group(folder: Path) -> GroupFiles:
    """Read the sidecars of a group, and what else is known of it."""
    found = GroupFiles()
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith(".") or path.name.endswith(".html.json"):  # pages judge nothing
            continue
        product = path.name.removesuffix(".json")
        kind = "hdf5" if product.startswith("group_") else product.removeprefix(f"{folder.name}.")
        content: Any
        if kind == "calibration":
            content = found.choice = read_json(path)
        elif kind == "failure" or kind.startswith("failure."):
            if content := read_json(path):
                found.failures[kind] = content
        elif content := read_record(path.with_suffix("")):
            found.products[kind] = content
        if content is None:
            found.damaged.append(path.name)
    return found


@dataclass
class NightFiles:
    """What the small files of a night say.

    Attributes
    ----------
    groups : dict
        Group id to what is known of it.
    mosaics : dict
        Name to sidecar.
    photometry : Record or None
        Sidecar of the night's own table.
    failure : dict or None
        Record of a failed job of the night itself.
    damaged : list of str
        Names of files that cannot be read.
    """

    groups: dict[str, GroupFiles]
    mosaics: dict[str, Record]
    photometry: Record | None
    failure: dict[str, Any] | None
    damaged: list[str]

    @property
    def of_night(self) -> list[Record]:
        """Sidecars of the products of the whole night."""
        return [*self.mosaics.values(), *filter(None, [self.photometry])]

    @property
    def of_groups(self) -> list[Record]:
        """Sidecars of the products of all groups."""
        return [record for group in self.groups.values() for record in group.products.values()]


def load_night(night_dir: Path) -> NightFiles:
    """Read every sidecar of a night."""
    folders = sorted(p for p in (night_dir / "groups").glob("*T*") if p.is_dir())
    groups = {folder.name: load_group(folder) for folder in folders}
    damaged = [name for group in groups.values() for name in group.damaged]
    mosaics = {}
    for path in sorted(night_dir.glob("mosaic*.fits.json")):
        if path.name == "mosaic.view.fits.json":
            continue
        if record := read_record(path.with_suffix("")):
            mosaics[path.stem] = record
        else:
            damaged.append(path.name)
    return NightFiles(
        groups=groups,
        mosaics=mosaics,
        photometry=read_record(night_dir / "photometry.csv"),
        failure=read_json(night_dir / "failure.json"),
        damaged=damaged,
    )


def describe_failure(failure: Mapping[str, Any]) -> str:
    """Say in one line what failed and what becomes of it, from the record of a failed job."""
    tries = failure.get("attempts", 1)
    after = f"after {_of(tries, 'attempt')}"
    fate = (
        f"set aside {after}"
        if failure.get("state") == "quarantined"
        else f"to be tried again {after}"
    )
    what, why = failure.get("rule", "a job"), failure.get("message", "see its log")
    return f"{what} failed: {why} ({failure.get('cause', 'unknown cause')}; {fate})"


def dig(content: Mapping | None, *keys: str) -> Any:
    """Return a nested value, or None where any step of the way is absent."""
    for key in keys:
        if not isinstance(content, Mapping):
            return None
        content = content.get(key)
    return content


def _number(value: Any) -> float | None:
    """Return a finite float, or None for what is absent, empty, NaN or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


# --- photometry -----------------------------------------------------------------------------------


def read_photometry(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a photometry table with numbers as floats (None where blank)."""
    text = {"source_id", "name", "group_or_epoch", "flags", "image"}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [
                {k: v if k in text else _number(v) for k, v in row.items() if k is not None}
                for row in csv.DictReader(stream)
            ]
    except FileNotFoundError:
        return []


def night_rows(night_dir: Path, tiles: list[dict]) -> tuple[list[dict[str, Any]], str]:
    """Return the measurements that speak for a night, and whether of ``mosaic`` or ``tiles``."""
    rows = read_photometry(night_dir / "photometry.csv")
    if rows:
        return rows, "mosaic"
    usable = [t["group"] for t in tiles if t["state"] in ("pass", "warn")]
    tables = (night_dir / "groups" / g / f"{g}.photometry.csv" for g in usable)
    return [row for table in tables for row in read_photometry(table)], "tiles"


def flux_scale(rows: list[dict[str, Any]], min_snr: float = 10.0) -> dict[str, Any]:
    """Return how measured fluxes compare with the catalogue.

    Only rows of the catalogue's isolated sources above `min_snr` enter; flagged rows do not.

    Returns
    -------
    dict
        ``n`` sources used, ``median_ratio`` (measured / catalogue), ``scatter`` of the
        ratio, ``median_error`` of that median, ``expected`` and ``detected`` counts and their
        ``completeness``: of sources whose catalogue flux is at least ten times the local noise, the
        share that was measured above five. Referring both to the local noise takes the primary beam
        out of the figure.
    """
    ratios = [
        r["flux_jy"] / r["catalog_flux_jy"]
        for r in rows
        if _usable(r) and r["catalog_flux_jy"] > 0 and (r["snr"] or 0) >= min_snr
    ]
    expected = [
        r
        for r in rows
        if _usable(r) and r["local_rms_jy"] and r["catalog_flux_jy"] >= 10 * r["local_rms_jy"]
    ]
    detected = [r for r in expected if r["flux_jy"] >= 5 * r["local_rms_jy"]]
    median = statistics.median(ratios) if ratios else None
    scatter = float(robust.sigma(np.array(ratios), median)) if ratios else None
    return {
        "n": len(ratios),
        "median_ratio": median,
        "scatter": scatter,
        "median_error": float(robust.median_error(scatter, len(ratios))) if ratios else None,
        "expected": len(expected),
        "detected": len(detected),
        "completeness": len(detected) / len(expected) if expected else None,
    }


def _usable(row: Mapping[str, Any]) -> bool:
    """Tell whether a row has both fluxes and no flag."""
    present = row.get("flux_jy") is not None and row.get("catalog_flux_jy") is not None
    return present and not (row.get("flags") or "").strip(" 0")


def pointing(tiles: Iterable[Mapping], groups: Mapping[str, GroupFiles]) -> dict[str, Any] | None:
    """Return how far the beams pointed from where they were assumed to, from all usable tiles.

    See `against_catalogue.combine_pointing`; None where no tile could tell.
    """
    from ..photometry.against_catalogue import combine_pointing

    usable = (groups.get(t["group"]) for t in tiles if t["state"] in ("pass", "warn"))
    images = (files and files.figures("image.fits", ImageFigures) for files in usable)
    checks = (image.catalog for image in images if image)
    return combine_pointing(check.pointing_offset for check in checks if check)


# --- one tile -------------------------------------------------------------------------------------


def tile_figures(files: GroupFiles) -> dict[str, float | None]:
    """Return the figures that are told of a tile everywhere; None where they are not known."""
    group = files.figures("hdf5", GroupFigures)
    tile = files.figures("ms", ConvertFigures)
    image = files.figures("image.fits", ImageFigures)
    found = {
        "ra_deg": tile and tile.phase_centre_ra_deg,
        "dec_deg": tile and tile.phase_centre_dec_deg,
        "n_integrations": group and group.n_integrations,
        "flagged_fraction": tile and tile.flags and tile.flags.flagged_fraction_effective,
        "rms_jy": image and image.rms_jy,
        "thermal_jy": image and image.thermal_rms_jy,
        "peak_jy": image and image.peak_jy,
        "dynamic_range": image and image.dynamic_range,
        "beam_major_arcsec": image and image.beam_major_arcsec,
        "beam_minor_arcsec": image and image.beam_minor_arcsec,
        "beam_pa_deg": image and image.beam_pa_deg,
    }
    return {name: _number(value) for name, value in found.items()}


def judge_tile(
    group: str, files: GroupFiles, listed: Mapping[str, Any] | None, folder: Path
) -> dict[str, Any]:
    """Judge one tile from the sidecars in its folder.

    Parameters
    ----------
    group : str
        Group id.
    files : GroupFiles
        What its folder holds.
    listed : mapping or None
        The inventory's entry for the group.
    folder : Path
        The group's folder, for its photometry table.

    Returns
    -------
    dict
        ``state`` is ``pass``, ``warn``, ``fail`` (a product failed its gate), ``missing`` (the
        chain stopped before the image) or ``waiting`` (files still arrive); ``stage`` is the last
        stage reached; ``verdicts`` those of each stage.
    """
    choice, products = files.choice, files.products
    verdict_of: dict[str, str] = {kind: record.verdict for kind, record in products.items()}
    reasons_of = {kind: record.reasons for kind, record in products.items()}
    if choice is not None:
        verdict_of["calibration"], reasons_of["calibration"] = _judge_choice(choice)
    verdicts = {kind: verdict_of[kind] for kind in (*STAGES, *TABLES) if kind in verdict_of}
    # What is wrong with a calibration is said of the calibration; its tile may still be good.
    reasons = [f"{NOUNS[kind]}: {reason}" for kind in STAGES for reason in reasons_of.get(kind, [])]
    if choice is not None and not choice.get("chosen") and not choice.get("reasons"):
        reasons.append("no usable calibration")
    if verdicts.get("calibration") == "warn":
        reasons.append(f"calibration borrowed from {dig(choice, 'chosen')}")

    failure = files.failures.get("failure")
    if failure:
        reasons.append(describe_failure(failure))
    image_verdicts = [v for k, v in verdicts.items() if k not in TABLES]
    stage = next((STAGES[k] for k in reversed(STAGES) if k in verdicts), "not begun")
    listed = listed or {}
    arrival = listed.get("state", "complete")
    if arrival == "collecting":
        state = "waiting"
    elif arrival == "failed":
        state = "fail"
        reasons = list(listed.get("reasons", [])) or ["the group never became complete"]
    elif "fail" in image_verdicts:
        state = "fail"
    elif "image.fits" not in products:
        state = "missing"
        if not failure:
            reasons.append(f"the chain stopped: {stage}, but not imaged")
    else:
        state = worst(image_verdicts)
        if arrival == "degraded":
            state = worst([state, "warn"])
            reasons += listed.get("reasons", []) or ["incomplete group"]
        if "photometry.csv" not in products:
            reasons.append("not measured: no photometry table")
        if failure or "photometry.csv" not in products:
            state = worst([state, "warn"])

    tile = {
        "group": group,
        "start_mjd": round(group_mjd(group), 6),
        "state": state,
        "stage": stage,
        "reasons": list(dict.fromkeys(reasons)),
        "verdicts": verdicts,
        "calibrator": bool(set(TABLES) & set(products)),
        "calibration": dig(choice, "chosen"),
        "borrowed": bool(dig(choice, "borrowed")),
        "failures": list(files.failures.values()),
    } | tile_figures(files)
    for name in ("ra_deg", "dec_deg", "n_integrations"):
        if tile[name] is None and listed:
            tile[name] = _number(listed.get(name))
    grouped = files.figures("hdf5", GroupFigures)
    converted = files.figures("ms", ConvertFigures)
    subbands = grouped.subbands if grouped else listed.get("files")
    tile["n_subbands"] = len(subbands) if subbands else None
    tile["noise_ratio"] = (
        tile["rms_jy"] / tile["thermal_jy"] if tile["rms_jy"] and tile["thermal_jy"] else None
    )
    flags = converted and converted.flags
    tile["n_channels"] = (flags and len(flags.by_channel)) or None
    tile["n_antennas"] = (flags and len(flags.by_antenna)) or None
    times = converted.pointing.time_mjd if converted else []
    if len(times) > 1:
        tile["n_integrations"] = len(times)
        span = (times[-1] - times[0]) * DAY_S
        tile["duration_s"] = round(span * len(times) / (len(times) - 1), 3)
    else:
        tile["duration_s"] = _number(listed.get("duration_s"))
    tile["dead_antennas"] = sorted({*flags.absent_antennas, *flags.dead_antennas}) if flags else []
    tile["flux_scale"] = flux_scale(read_photometry(folder / f"{group}.photometry.csv"))
    tile["seconds"] = {
        products[kind].step: round(sum(seconds_of(products[kind])), 3)
        for kind in STAGES
        if kind in products and products[kind].timings_s
    }
    if tile["calibrator"]:
        # One run makes all tables; each of their sidecars holds its times.
        solved = [sum(seconds_of(products[k])) for k in TABLES if k in products]
        tile["seconds"]["calibrate"] = round(max(solved), 3)
    return tile


def _judge_choice(choice: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return verdict and reasons of the choice of a calibration."""
    if not choice.get("chosen"):
        return "fail", choice.get("reasons") or []
    return "warn" if choice.get("borrowed") else "pass", choice.get("reasons") or []


def seconds_of(record: Record) -> list[float]:
    """Return the times of a step's parts, s; its ``total`` alone where it has one."""
    total = _number(record.timings_s.get("total"))
    return [total] if total is not None else [s for s in record.timings_s.values() if s]


def judge_calibration(group: str, files: GroupFiles) -> dict[str, Any] | None:
    """Return verdict and figures of the solutions from one group, or None where it has none."""
    tables = {k: files.products[k] for k in TABLES if k in files.products}
    failure = files.failures.get("failure.calibrate")
    if not tables and not failure:
        return None
    merged: dict[str, Any] = {}
    for table in tables.values():
        merged |= table.figures.single()
    return {
        "group": group,
        "start_mjd": round(group_mjd(group), 6),
        "calibrator": merged.get("calibrator"),
        "verdict": "fail" if failure else worst(t.verdict for t in tables.values()),
        "reasons": [describe_failure(f) for f in [failure] if f]
        + list(dict.fromkeys(r for t in tables.values() for r in t.reasons)),
        "tables": sorted(tables),
        "figures": merged,
    }


# --- the night ------------------------------------------------------------------------------------


def judge_night(
    night_dir: Path, inventory: Mapping[str, Any] | None = None, options: QaOptions | None = None
) -> dict[str, Any]:
    """Judge a night.

    Parameters
    ----------
    night_dir : Path
        ``results/nights/<YYYY-MM-DD>``.
    inventory : mapping, optional
        What the inventory step wrote; with it, groups of this night that never began are seen too.
    options : QaOptions, optional
        Gates.

    Returns
    -------
    dict
        ``verdict``, ``summary`` (one sentence), ``reasons``, ``counts``, ``tiles``,
        ``calibrations``, ``mosaics``, ``flux_scale``, ``pointing``, ``failures`` (records of failed
        jobs), ``rejected``, ``timings``.

    Raises
    ------
    DataError
        If the folder is absent or its name is no date.
    """
    options = options or QaOptions()
    night_dir = Path(night_dir)
    night = night_dir.resolve().name
    if not night_dir.is_dir():
        raise DataError(f"{night_dir}: no such folder; give results/nights/<YYYY-MM-DD>")
    found = load_night(night_dir)
    listed = {
        g["id"]: g for g in (inventory or {}).get("groups", []) if g.get("night", night) == night
    }
    tiles = [
        judge_tile(g, found.groups.get(g, GroupFiles()), listed.get(g), night_dir / "groups" / g)
        for g in sorted(set(found.groups) | set(listed))
    ]
    calibrations = [c for g, files in found.groups.items() if (c := judge_calibration(g, files))]
    photometry = figures_of(found.photometry, PhotometryFigures)
    positions = photometry.astrometry if photometry else None
    rows, source = night_rows(night_dir, tiles)
    judged = {
        "schema": SCHEMA,
        "night": night,
        "created_utc": utc_now(),
        "counts": _counts(tiles, calibrations, found.mosaics, rows),
        "flux_scale": flux_scale(rows) | {"source": source},
        "astrometry": positions and positions.plain(),
        "pointing": pointing(tiles, found.groups),
        "tiles": tiles,
        "calibrations": calibrations,
        "mosaics": [
            {
                "name": name,
                "verdict": record.verdict,
                "reasons": record.reasons,
                "qa": record.figures.plain(),
                "inputs": len(record.inputs),
            }
            for name, record in found.mosaics.items()
        ],
        "failures": [f for t in tiles for f in t["failures"]] + [f for f in [found.failure] if f],
        "rejected": _of_night((inventory or {}).get("rejected", []), night),
        "damaged": found.damaged,
        "timings": _timings(tiles, found),
        "tools": _tools(found),
        "gates": options.model_dump(),
    }
    mosaic = figures_of(found.mosaics.get("mosaic.fits"), MosaicFigures)
    beam_arcsec = mosaic.beam_minor_arcsec if mosaic else None
    off = _position_reasons(positions, beam_arcsec, options)
    judged["verdict"], judged["reasons"] = _verdict(judged, off, options)
    judged["summary"] = _summary(judged)
    return judged


def _of_night(rejected: Iterable[Mapping], night: str) -> list[dict]:
    """Return the rejected files whose name begins with the date of this night."""
    return [dict(r) for r in rejected if Path(r["path"]).name.startswith(night)]


def _counts(tiles: list, calibrations: list, mosaics: Mapping, rows: list) -> dict[str, int]:
    states = Counter(t["state"] for t in tiles)
    return {
        "groups": len(tiles),
        **{state: states[state] for state in ("pass", "warn", "fail", "missing", "waiting")},
        "calibrations": len(calibrations),
        "usable_calibrations": sum(c["verdict"] != "fail" for c in calibrations),
        "mosaics": len(mosaics),
        "measurements": len(rows),
    }


def _timings(tiles: list, found: NightFiles) -> dict[str, Any]:
    """Return seconds by step (median and sum), and the factor by which tiles outrun real time."""
    by_step: dict[str, list[float]] = {step: [] for step in STEPS}
    for tile in tiles:
        for step, seconds in tile["seconds"].items():
            by_step.setdefault(step, []).append(seconds)
    for record in found.of_night:
        if record.timings_s:
            by_step.setdefault(f"{record.step} (night)", []).append(sum(seconds_of(record)))
    done = [t for t in tiles if t["seconds"] and t["state"] in ("pass", "warn", "fail")]
    spent = [sum(s for step, s in t["seconds"].items() if step != "calibrate") for t in done]
    factors = [
        t["duration_s"] / s for t, s in zip(done, spent, strict=True) if t["duration_s"] and s
    ]
    durations = [t["duration_s"] for t in done if t["duration_s"]]
    return {
        "steps": {
            step: {"n": len(s), "median_s": statistics.median(s), "total_s": sum(s)}
            for step, s in by_step.items()
            if s
        },
        "tile_median_s": statistics.median(spent) if spent else None,
        "tile_duration_s": statistics.median(durations) if durations else TILE_S,
        "real_time_factor": statistics.median(factors) if factors else None,
    }


def _tools(found: NightFiles) -> dict[str, list[str]]:
    """Return the versions of every tool that made something in the night."""
    tools: dict[str, set[str]] = {}
    for record in (*found.of_groups, *found.of_night):
        for name, version in record.tools.items():
            tools.setdefault(name, set()).add(version)
    return {name: sorted(tools[name]) for name in sorted(tools)}


def _verdict(
    night: Mapping[str, Any], position_reasons: list[str], options: QaOptions
) -> tuple[str, list[str]]:
    """Return verdict and reasons; the gravest reasons come first."""
    counts, scale = night["counts"], night["flux_scale"]
    usable = counts["pass"] + counts["warn"]
    grave: list[str] = []
    if not counts["groups"]:
        grave.append("the night has no data")
    elif counts["waiting"] == counts["groups"]:
        grave.append("no group is complete yet")
    elif not usable:
        grave.append(f"none of {_of(counts['groups'], 'tile')} gave a usable image")
    mosaic = next((m for m in night["mosaics"] if m["name"] == "mosaic.fits"), None)
    if usable and mosaic and mosaic["verdict"] == "fail":
        grave.append("the mosaic of the night failed its gate: " + "; ".join(mosaic["reasons"]))

    light: list[str] = []
    for state, words in (
        ("fail", "failed"),
        ("missing", "without an image"),
        ("warn", "passed with a warning"),
        ("waiting", "still waiting for files"),
    ):
        affected = [t for t in night["tiles"] if t["state"] == state]
        if affected:
            light.append(f"{_of(len(affected), 'tile')} {words}: {_list_tiles(affected)}")
    for calibration in night["calibrations"]:
        if calibration["verdict"] != "pass":
            said = "failed" if calibration["verdict"] == "fail" else "is poor"
            why = "; ".join(calibration["reasons"])
            light.append(
                f"calibration on {calibration['calibrator'] or calibration['group']} {said}: {why}"
            )
    if counts["groups"] and not counts["calibrations"]:
        light.append("no calibrator transit was solved on this night")
    light += [
        describe_failure(f) for f in night["failures"] if "group" not in (f.get("wildcards") or {})
    ]
    if usable and mosaic is None:
        light.append("there is no mosaic of the night")
    for m in night["mosaics"]:
        if m["verdict"] == "warn" or (m["verdict"] == "fail" and m is not mosaic):
            light.append(f"{m['name']}: " + "; ".join(m["reasons"] or [m["verdict"]]))
    light += _flux_reasons(scale, options)
    light += position_reasons
    light += _pointing_reasons(night["pointing"], options)
    if night["rejected"]:
        light.append(f"{_of(len(night['rejected']), 'incoming file')} could not be read")
    if night["damaged"]:
        light.append("unreadable sidecars: " + ", ".join(night["damaged"][:5]))
    if grave:
        return "failed", grave + light
    return ("degraded" if light else "clean"), light


def _flux_reasons(scale: Mapping[str, Any], options: QaOptions) -> list[str]:
    """Return what is wrong with flux scale and completeness."""
    reasons = []
    if scale["n"] < options.min_sources:
        return [
            f"only {_of(scale['n'], 'source')} to check the flux scale with "
            f"(at least {options.min_sources} wanted)"
        ]
    off = scale["median_ratio"] - 1
    if abs(off) - 2 * scale["median_error"] > options.max_flux_offset:
        reasons.append(
            f"flux scale is off: measured fluxes are {abs(off):.0%} "
            f"{'above' if off > 0 else 'below'} the catalogue ({scale['n']} sources, "
            f"limit {options.max_flux_offset:.0%})"
        )
    if scale["completeness"] is not None and scale["completeness"] < options.min_completeness:
        reasons.append(
            f"only {scale['detected']} of {scale['expected']} sources that should be seen at "
            f"10 sigma were detected (limit {options.min_completeness:.0%})"
        )
    return reasons


def _position_reasons(
    astrometry: MedianOffset | None, beam: float | None, options: QaOptions
) -> list[str]:
    """Return what is wrong with the positions in the mosaic, given its beam, arcsec."""
    if not astrometry or not beam:
        return []
    shift = math.hypot(astrometry.ra_offset_arcsec, astrometry.dec_offset_arcsec)
    if shift - 2 * astrometry.error_arcsec <= options.max_position_offset * beam:
        return []
    return [
        f"positions are off by {shift:.1f} arcsec ({astrometry.n} sources, limit "
        f"{options.max_position_offset:g} of the beam's {beam:.0f} arcsec)"
    ]


def _pointing_reasons(offset: Mapping[str, Any] | None, options: QaOptions) -> list[str]:
    """Return what is wrong with the pointing of the beams."""
    if not offset or offset["significance"] < POINTING_SIGMA:
        return []
    if offset["offset_deg"] <= options.max_pointing_offset_deg:
        return []
    return [
        f"beams are mispointed by {offset['offset_deg']:.2f} deg towards position angle "
        f"{offset['position_angle_deg']:.0f} deg: {abs(offset['north_deg']):.2f} deg "
        f"{'north' if offset['north_deg'] > 0 else 'south'}, {abs(offset['east_deg']):.2f} deg "
        f"{'east' if offset['east_deg'] > 0 else 'west'} ({offset['n']} flux ratios on "
        f"{_of(offset['n_tiles'], 'tile')}, limit {options.max_pointing_offset_deg:g} deg)"
    ]


def _of(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _list_tiles(tiles: list, most: int = 4) -> str:
    """Name a few tiles with their reasons."""
    parts = [f"{t['group']} ({'; '.join(t['reasons'][:2]) or t['stage']})" for t in tiles[:most]]
    more = len(tiles) - most
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _summary(night: Mapping[str, Any]) -> str:
    """Return the night in one sentence."""
    counts, scale = night["counts"], night["flux_scale"]
    usable = counts["pass"] + counts["warn"]
    text = f"{usable} of {_of(counts['groups'], 'tile')} usable"
    if counts["calibrations"]:
        text += f", {counts['usable_calibrations']} of {counts['calibrations']} calibrations usable"
    if scale["median_ratio"] is not None:
        text += (
            f", flux scale {scale['median_ratio']:.3f} ± {scale['median_error']:.3f} of the "
            f"catalogue from {_of(scale['n'], 'source')}"
        )
    return text + "."


def write_verdict(
    night_dir: Path, out: Path, inventory_path: Path | None, options: QaOptions
) -> dict[str, Any]:
    """Judge a night and write the verdict (``qa.json``); return it, see `judge_night`.

    Raises
    ------
    DataError
        If the inventory is named, but cannot be read.
    """
    inventory = None
    if inventory_path:
        inventory = read_json(inventory_path)
        if inventory is None:
            raise DataError(f"{inventory_path}: absent or not JSON; start the run again")
    judged = judge_night(night_dir, inventory, options)
    write_text(out, json.dumps(judged, indent=1) + "\n")
    vouch("night_qa", out, [night_dir / "photometry.csv", *filter(None, [inventory_path])])
    return judged
