"""What Snakemake is asked for: the products of a plan, by tile, night, and all nights together."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from ..core.layout import Layout, companion
from .planning import Plan
from .standing import SOLUTIONS, TILE_PRODUCTS

#: Maps of a tile, those of a mosaic, and the science tables.
TILE_MAPS = ("pb", "pbcor", "residual", "model", "psf", "rms")


MOSAIC_MAPS = ("weight", "rms")


LIGHTCURVES = ("lightcurves.parquet", "variability.csv", "candidates.csv")


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
        *(
            str(layout.group(g, name))
            for g in tiles
            for name in ("cal.ms.json", "calibration.json")
        ),
        *with_sidecars(*pages(plan, layout, mine)),
    ]


def pages(plan: Plan, layout: Layout, groups: Iterable[str]) -> list[str]:
    """Return the pages of the tiles and calibrations of some groups; not of what was purged."""
    mine = [g for g in groups if g in plan.groups and g not in plan.settled]
    tiles = [g for g in mine if plan.calibration.candidates.get(g)]
    solved = [g for g in mine if g in plan.calibration.transits and _solvable(plan, g)]
    return [
        *(str(layout.group(g, "html")) for g in tiles if ("tile_report", g) not in plan.spared),
        *(
            str(layout.group(g, "solutions.html"))
            for g in solved
            if ("calibration_report", g) not in plan.spared
        ),
    ]


def _solvable(plan: Plan, group: str) -> bool:
    return ("calibrate", group) not in plan.spared


def night_targets(plan: Plan, layout: Layout, nights: Collection[str]) -> list[str]:
    """Return every product of some nights, beside those of their groups."""
    epochs_of = {night: plan.epochs[night] for night in plan.epochs if night in nights}
    mosaics = [
        layout.night(night, f"{name}.fits")
        for night, epoch in epochs_of.items()
        for name in ("mosaic", *(f"mosaic_{hour}" for hour in epoch.hours))
    ]
    names = ("photometry.csv",)
    tables = [layout.night(night, name) for night in epochs_of for name in names]
    tables += [
        layout.night(night, name)
        for night in epochs_of
        if ("night_blind", night) not in plan.spared
        for name in plan.optional
    ]
    joint = [
        layout.night(n, f"joint_{name}.fits") for n in epochs_of for name in plan.joint.get(n, ())
    ]
    return [
        *with_sidecars(*mosaics, *joint, *tables),
        *(str(companion(path, kind)) for path in (*mosaics, *joint) for kind in MOSAIC_MAPS),
        *with_sidecars(*(layout.night(n, "qa.json") for n in epochs_of)),
        *with_sidecars(*(layout.night(n, "report.html") for n in epochs_of if _is_shown(plan, n))),
    ]


def _is_shown(plan: Plan, night: str) -> bool:
    """Tell whether a night gets a page; it rests on the light curves."""
    return ("night_report", night) not in plan.spared and "lightcurves" not in plan.set_aside


def view(plan: Plan, layout: Layout, night: str) -> list[str]:
    """Return the small copy of a night's mosaic, if it can be made."""
    spared = ("mosaic_view", night) in plan.spared
    return [] if spared else [str(layout.night(night, "mosaic.view.fits"))]


def science_targets(plan: Plan, layout: Layout) -> list[str]:
    """Return the products of all nights together."""
    if not plan.measured_nights:
        return []
    products = []
    if "lightcurves" not in plan.set_aside:
        products = [str(layout.lightcurves(name)) for name in LIGHTCURVES]
        products.append(f"{products[0]}.json")
        if ("candidate_plots", "candidate_plots") not in plan.spared:
            products += with_sidecars(layout.lightcurves("candidates"))
    if "lightcurves" not in plan.set_aside and ("index", "index") not in plan.spared:
        products += with_sidecars(layout.results / "index.sqlite")
    return products


def all_targets(plan: Plan, layout: Layout) -> list[str]:
    """Return every product that is kept: one that is deleted is made again."""
    return [
        *tile_targets(plan, layout, plan.groups),
        *night_targets(plan, layout, plan.nights),
        *science_targets(plan, layout),
    ]
