"""What Snakemake is asked for: the products of a plan, by tile, night, and all nights together."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from ..core.layout import Layout, companion
from .planning import Plan

#: Products of a tile that have sidecars, its maps, those of a mosaic, and the science tables.
TILE_PRODUCTS = ("image.fits", "photometry.csv")


TILE_MAPS = ("pb", "pbcor", "residual", "model", "psf", "rms")


MOSAIC_MAPS = ("weight", "rms")


LIGHTCURVES = ("lightcurves.parquet", "variability.csv", "candidates.csv")


SOLUTIONS = ("kcal", "bcal", "gcal")


# --- what a run makes ---------------------------------------------------------------------------


def with_sidecars(*paths: str | os.PathLike) -> list[str]:
    """Return products and what is known of them."""
    return [f"{path}{ending}" for path in paths for ending in ("", ".json")]


def tile_targets(plan: Plan, layout: Layout, groups: Iterable[str]) -> list[str]:
    """Return every product of some groups that is kept."""
    mine = [g for g in groups if g in plan.groups]
    tiles = [g for g in mine if plan.calibration.candidates.get(g)]
    solved = [g for g in mine if g in plan.calibration.transits and _solvable(plan, g)]
    return [
        *with_sidecars(
            *(layout.group(g, kind) for g in mine for kind in ("hdf5", "ms")),
            *(layout.group(g, kind) for g in solved for kind in SOLUTIONS),
            *(layout.group(g, kind) for g in tiles for kind in TILE_PRODUCTS),
        ),
        *(str(layout.group(g, f"{kind}.fits")) for g in tiles for kind in TILE_MAPS),
        *(str(layout.group(g, "calibration.json")) for g in tiles),
        *pages(plan, layout, mine),
    ]


def pages(plan: Plan, layout: Layout, groups: Iterable[str]) -> list[str]:
    """Return the pages of the tiles and calibrations of some groups; not of what was purged."""
    mine = [g for g in groups if g in plan.groups and g not in plan.settled]
    tiles = [g for g in mine if plan.calibration.candidates.get(g)]
    solved = [g for g in mine if g in plan.calibration.transits and _solvable(plan, g)]
    return [
        *(str(layout.group(g, "html")) for g in tiles),
        *(str(layout.group(g, "solutions.html")) for g in solved),
    ]


def _solvable(plan: Plan, group: str) -> bool:
    return not any(
        f.quarantined and f.rule == "calibrate" and f.wildcards.get("group") == group
        for f in plan.failures
    )


def night_targets(plan: Plan, layout: Layout, nights: Collection[str]) -> list[str]:
    """Return every product of some nights, beside those of their groups."""
    epochs_of = {night: plan.epochs[night] for night in plan.epochs if night in nights}
    mosaics = [
        layout.night(night, f"{name}.fits")
        for night, epoch in epochs_of.items()
        for name in ("mosaic", *(f"mosaic_{hour}" for hour in epoch.hours))
    ]
    names = ("photometry.csv", *plan.optional)
    tables = [layout.night(night, name) for night in epochs_of for name in names]
    joint = [
        layout.night(n, f"joint_{name}.fits") for n in epochs_of for name in plan.joint.get(n, ())
    ]
    return [
        *with_sidecars(*mosaics, *joint, *tables),
        *(str(companion(path, kind)) for path in (*mosaics, *joint) for kind in MOSAIC_MAPS),
        *(str(layout.night(n, name)) for n in epochs_of for name in ("qa.json", "report.html")),
    ]


def science_targets(plan: Plan, layout: Layout) -> list[str]:
    """Return the products of all nights together."""
    if not plan.measured_nights:
        return []
    return [
        *(str(layout.lightcurves(name)) for name in (*LIGHTCURVES, "candidates")),
        str(layout.results / "index.sqlite"),
    ]


def all_targets(plan: Plan, layout: Layout) -> list[str]:
    """Return every product that is kept: one that is deleted is made again."""
    return [
        *tile_targets(plan, layout, plan.groups),
        *night_targets(plan, layout, plan.nights),
        *science_targets(plan, layout),
    ]
