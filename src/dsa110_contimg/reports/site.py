"""Pages over all nights: calendar, trends, variability plane, and one page for every source.

Everything is static and opens from files. The overview links to the page of each night where it
lies; light curves are small SVG files, shown on their source's page and, on hovering, over the
variability plane.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..calibration.tables import SolutionCube, read_cube
from ..core.errors import DataError
from ..core.escape import file_name
from ..core.files import write_text
from ..core.times import GROUP_ID, NIGHT, night_of, night_of_mjd, utc_now
from . import plots
from .judge import judge_night, read_record, read_verdict
from .pages import environment, is_number, read_table

__all__ = ["build_site"]


def build_site(results: Path, out: Path) -> dict[str, int]:
    """Write the site.

    Parameters
    ----------
    results : Path
        Results folder.
    out : Path
        Folder of the site; ``index.html`` and ``sources/`` are written into it.

    Returns
    -------
    dict
        Number of ``nights`` and ``sources``.

    Raises
    ------
    DataError
        If the folder holds no nights.
    """
    results, out = Path(results).resolve(), Path(out)
    folders = sorted(p for p in (results / "nights").glob("*") if re.fullmatch(NIGHT, p.name))
    if not folders:
        raise DataError(f"{results}: no nights in it; give the results folder")
    (out / "sources").mkdir(parents=True, exist_ok=True)
    env = environment()
    nights = [_night(folder, out) for folder in folders]
    sources, limits = _sources(results / "lightcurves")
    links = {n["night"]: n["href"] for n in nights}
    _source_pages(env, results / "lightcurves", out, sources, links)
    with plots.style():
        drawn = {
            "trends": plots.trends([n["trend"] for n in nights]),
            "gains": plots.gain_history(_gains(folders)),
        }
    page = env.get_template("site.html.j2").render(
        nights=nights,
        sources=sources,
        plane=plane(sources, *limits),
        plots=drawn,
        dead=_dead(nights),
        version=__version__,
        made_utc=utc_now(),
    )
    write_text(out / "index.html", page)
    return {"nights": len(nights), "sources": len(sources)}


def _night(folder: Path, out: Path) -> dict[str, Any]:
    """Return what the overview says of a night."""
    judged = read_verdict(folder) or judge_night(folder)
    counts, scale = judged["counts"], judged["flux_scale"]
    usable = [t for t in judged["tiles"] if t["state"] in ("pass", "warn")]
    page = folder / "report.html"
    dead = [set(t.get("dead_antennas") or []) for t in usable]
    return {
        "night": folder.name,
        "verdict": judged["verdict"],
        "summary": judged["summary"],
        "reasons": judged["reasons"],
        "groups": counts["groups"],
        "usable": counts["pass"] + counts["warn"],
        "href": os.path.relpath(page, out.resolve()) if page.exists() else None,
        "dead": set.intersection(*dead) if dead else set(),
        "trend": {
            "night": folder.name,
            "rms_jy": _median(t["rms_jy"] for t in usable),
            "thermal_jy": _median(t["thermal_jy"] for t in usable),
            "flux_ratio": scale["median_ratio"],
            "flux_ratio_error": scale["median_error"],
            "completeness": scale["completeness"],
            "usable": len(usable) / counts["groups"] if counts["groups"] else None,
        },
    }


def _median(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def _dead(nights: list[dict]) -> list[dict]:
    """Return the antennas that were dead through whole nights, longest first."""
    names = {a for n in nights for a in n["dead"]}
    rows = [{"antenna": a, "nights": [n["night"] for n in nights if a in n["dead"]]} for a in names]
    return sorted(rows, key=lambda r: (-len(r["nights"]), r["antenna"]))


def _gains(folders: list[Path]) -> list[tuple[str, SolutionCube]]:
    """Return all gain tables that can be read, in order of time."""
    tables = []
    for path in sorted(p for folder in folders for p in folder.glob("groups/*/*.gcal")):
        try:
            tables.append((path.name.split(".")[0], read_cube(path)))
        except DataError:
            continue  # a failed calibration has no solutions; its night's page says so
    return tables


def _sources(folder: Path) -> tuple[list[dict], tuple[float, float]]:
    """Return all sources, most variable first, and the thresholds of candidates (eta, V)."""
    record = read_record(folder / "lightcurves.parquet")
    limits = record.parameters if record else {}
    chosen = {r["source_id"] for r in read_table(folder / "candidates.csv")}
    rows = []
    for row in read_table(folder / "variability.csv"):
        rows.append(
            {
                "source_id": row["source_id"],
                "name": row.get("name") or row["source_id"],
                "file": file_name(row["source_id"]),
                "candidate": row["source_id"] in chosen,
                "fields": row,
            }
            | {k: row.get(k) if is_number(row.get(k)) else None for k in _SHOWN}
        )
    rows.sort(key=lambda r: (not r["candidate"], -(r["eta"] or 0)))
    return rows, (limits.get("eta_threshold", 2.5), limits.get("v_threshold", 0.1))


_SHOWN = ("ra_deg", "dec_deg", "n_meas", "wavg_flux_jy", "eta", "v")


def _source_pages(env: Any, folder: Path, out: Path, sources: list[dict], links: dict) -> None:
    """Write light curve and page of every source; pages of sources that are gone are removed."""
    kept = {s["file"] for s in sources}
    for old in (*(out / "sources").glob("*.html"), *(out / "sources").glob("*.svg")):
        if old.name.rsplit(".", 1)[0] not in kept:
            old.unlink()
    path = folder / "lightcurves.parquet"
    if not sources or not path.exists():
        return
    import pandas as pd

    curves = pd.read_parquet(path).sort_values(["source_id", "mjd"])
    points = dict(tuple(curves.groupby(curves.source_id.astype(str), sort=False)))
    template = env.get_template("source.html.j2")
    for i, source in enumerate(sources):
        table = points.get(source["source_id"])
        if table is None:
            continue
        svg = plots.light_curve(
            table.mjd, table.flux_jy, table.flux_err_jy, table.get("upper_limit_jy")
        )
        rows = table.to_dict("records")
        for row in rows:
            row["night"] = _night_of(row)
            row["href"] = links.get(row["night"]) and "../" + links[row["night"]]
        write_text(out / "sources" / f"{source['file']}.svg", svg)
        neighbours = (sources[i - 1] if i else None, *sources[i + 1 : i + 2])
        write_text(
            out / "sources" / f"{source['file']}.html",
            template.render(
                source=source, svg=svg, rows=rows, neighbours=neighbours, version=__version__
            ),
        )


def _night_of(row: dict) -> str:
    """Return the night of a measurement: of its epoch or, where that does not tell, of its MJD."""
    epoch = str(row.get("epoch", ""))
    if night := re.match(NIGHT, epoch):
        return night[0]
    if re.fullmatch(GROUP_ID, epoch):
        return night_of(epoch)
    return night_of_mjd(row["mjd"])


def plane(sources: list[dict], eta_limit: float, v_limit: float) -> dict[str, Any] | None:
    """Return the variability plane in a space of 640 by 420: points, ticks and thresholds."""
    used = [s for s in sources if (s["eta"] or 0) > 0 and (s["v"] or 0) > 0]
    if not used:
        return None
    # Sources that hardly move at all are drawn at the lower edges.
    v = np.log10(np.maximum([s["v"] for s in used] + [v_limit], 1e-3))
    eta = np.log10(np.maximum([s["eta"] for s in used] + [eta_limit], 1e-2))
    (x0, x1), (y0, y1) = ((a.min() - 0.15, a.max() + 0.15) for a in (v, eta))
    x = 60 + (v - x0) / (x1 - x0) * 570
    y = 380 - (eta - y0) / (y1 - y0) * 370

    def decades(low: float, high: float) -> list[int]:
        return list(range(int(np.ceil(low)), int(np.floor(high)) + 1))

    return {
        "points": [
            s | {"x": round(float(a), 1), "y": round(float(b), 1)}
            for s, a, b in zip(used, x, y, strict=False)
        ],
        "x_limit": round(float(x[-1]), 1),
        "y_limit": round(float(y[-1]), 1),
        "x_ticks": [
            (round(60 + (t - x0) / (x1 - x0) * 570, 1), f"{10.0**t:g}") for t in decades(x0, x1)
        ],
        "y_ticks": [
            (round(380 - (t - y0) / (y1 - y0) * 370, 1), f"{10.0**t:g}") for t in decades(y0, y1)
        ],
    }
