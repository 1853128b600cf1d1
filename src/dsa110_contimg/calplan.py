"""Which group calibrates, and which solutions serve which group.

A pure function of the inventory, the calibrators, the recorded choices and the verdicts of the
solutions that exist. It runs whenever the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .config import CalibrationOptions
from .products import night_of

__all__ = ["CalibrationPlan", "find_transits", "plan_calibration"]

#: Sidereal rate: how fast the meridian moves through right ascension, degrees per second.
RA_DEG_PER_S = 360.98564736629 / 86400
#: A transit this long after the end of a tile still counts: tiles are a second or two apart.
GAP_S = 5.0
#: Band centre, Hz; the beam there weighs calibrators.
BAND_CENTRE_HZ = 1.405e9
#: Solutions that a group may fall back on, the first included.
MAX_CANDIDATES = 3


class GroupLike(Protocol):
    """What the plan needs of a group; see `ingest.Group`."""

    id: str
    start_mjd: float
    duration_s: float
    dec_app_deg: float
    ra_deg: float
    dec_deg: float


class CalibratorLike(Protocol):
    """What the plan needs of a calibrator; see `catalogs.Calibrator`."""

    name: str
    ra_deg: float
    dec_deg: float
    steady: bool

    def flux(self, freq_hz: float) -> float: ...


@dataclass(frozen=True)
class CalibrationPlan:
    """The plan.

    Attributes
    ----------
    transits : dict of str to str
        Group id to the name of the calibrator that transits during it.
    candidates : dict of str to list of str
        Group id to the ids of the calibrator groups that may serve it, best first.
    refused : dict of str to str
        Group id to the reason why no solution may serve it.
    """

    transits: dict[str, str] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def plan_calibration(
    groups: Sequence[GroupLike],
    calibrators: Sequence[CalibratorLike],
    options: CalibrationOptions,
    records: Mapping[str, Mapping[str, Any]] | None = None,
    verdicts: Mapping[str, str] | None = None,
) -> CalibrationPlan:
    """Assign calibrator transits to groups.

    Within `validity_h` the nearest solution in time serves first, one on a steady calibrator before
    one on any other; then come borrowed ones, up to `borrow_days`. The best one's night gives all
    candidates. Solutions on another strip, and those that failed, never serve. A group that was
    calibrated keeps its recorded candidates, so that a solution which appears later changes nothing
    that is done; the record is void when the solution it chose has failed since.

    Parameters
    ----------
    groups : sequence of ingest.Group
        Groups to calibrate, and to find transits in.
    calibrators : sequence of catalogs.Calibrator
        In order of preference.
    options : CalibrationOptions
        Limits.
    records : mapping, optional
        Group id to the content of its ``calibration.json``.
    verdicts : mapping, optional
        Calibrator group id to the verdict of its solution; absent where it is still to be solved.
    """
    records, verdicts = records or {}, verdicts or {}
    transits = find_transits(groups, calibrators, options)
    steady = {c.name: c.steady for c in calibrators}
    by_id = {g.id: g for g in groups}
    solutions = [by_id[g] for g in transits]
    plan = CalibrationPlan(transits=dict(transits))
    for group in groups:
        record = records.get(group.id)
        if record and _still_holds(record, verdicts):
            plan.candidates[group.id] = list(record["candidates"])
            for solution, name in record.get("calibrators", {}).items():
                plan.transits.setdefault(solution, name)
            continue
        ranked = _rank(group, solutions, transits, steady, options)
        usable = [s for s in ranked if verdicts.get(s) != "fail"]
        if usable:
            # A night rests on its own solutions, or on one other: not on whatever else would serve.
            night = night_of(usable[0])
            ladder = [s for s in usable if night_of(s) == night]
            plan.candidates[group.id] = ladder[:MAX_CANDIDATES]
        else:
            plan.refused[group.id] = _refusal(group, ranked, options)
    return plan


def find_transits(
    groups: Sequence[GroupLike],
    calibrators: Sequence[CalibratorLike],
    options: CalibrationOptions,
) -> dict[str, str]:
    """Return which groups hold the transit of which calibrator.

    The right ascension of the calibrator must lie within the tile, its declination within
    `max_offset_deg` of the pointing, and its flux times the beam above `min_flux_jy`. Of several in
    one tile the first steady one in the order of `calibrators` is taken, or else the one with the
    largest flux times beam. Of two tiles that both hold a transit, the one nearer to it counts.
    """
    if not groups or not calibrators:
        return {}
    group_ra, group_dec, group_mjd, half_s = (
        np.array(column)
        for column in zip(
            *(
                (g.ra_deg, g.dec_deg, g.start_mjd + g.duration_s / 2 / 86400, g.duration_s / 2)
                for g in groups
            ),
            strict=True,
        )
    )
    found: dict[int, list[tuple]] = {}
    for rank, calibrator in enumerate(calibrators):
        # Seconds from mid-tile to transit; the meridian moves east.
        late_s = ((calibrator.ra_deg - group_ra + 180) % 360 - 180) / RA_DEG_PER_S
        offset_deg = np.abs(calibrator.dec_deg - group_dec)
        near = (np.abs(late_s) <= half_s + GAP_S) & (offset_deg <= options.max_offset_deg)
        for i in _one_tile_each(np.flatnonzero(near), late_s, group_mjd, half_s):
            flux = _apparent_flux(calibrator, offset_deg[i])
            if flux >= options.min_flux_jy:
                order = (0, rank) if calibrator.steady else (1, -flux)
                found.setdefault(int(i), []).append((order, calibrator.name))
    return {groups[i].id: min(found[i])[1] for i in sorted(found)}


def _one_tile_each(
    tiles: np.ndarray, late_s: np.ndarray, mid_mjd: np.ndarray, half_s: np.ndarray
) -> list[int]:
    """Drop tiles that overlap in time (within the gap) with one nearer to the same transit."""
    kept: list[int] = []
    for i in sorted(tiles, key=lambda i: abs(late_s[i])):
        apart_s = [abs(mid_mjd[i] - mid_mjd[k]) * 86400 for k in kept]
        if all(s > half_s[i] + half_s[k] + 2 * GAP_S for s, k in zip(apart_s, kept, strict=True)):
            kept.append(i)
    return kept


def _apparent_flux(calibrator: CalibratorLike, offset_deg: float) -> float:
    """Return the flux at transit times the beam, Jy."""
    from .beam import airy_power

    response = airy_power(math.radians(offset_deg), BAND_CENTRE_HZ)
    return float(calibrator.flux(BAND_CENTRE_HZ) * response)


def _still_holds(record: Mapping[str, Any], verdicts: Mapping[str, str]) -> bool:
    chosen = record.get("chosen")
    return bool(chosen) and verdicts.get(chosen) != "fail"


def _middle_mjd(group: GroupLike) -> float:
    return group.start_mjd + group.duration_s / 2 / 86400


def _rank(
    group: GroupLike,
    solutions: Sequence[GroupLike],
    transits: Mapping[str, str],
    steady: Mapping[str, bool],
    options: CalibrationOptions,
) -> list[str]:
    """Return the ids of the solutions that may serve a group, best first."""
    ranked = []
    for solution in solutions:
        if abs(solution.dec_app_deg - group.dec_app_deg) > options.strip_deg:
            continue
        apart_h = abs(_middle_mjd(solution) - _middle_mjd(group)) * 24
        borrowed = apart_h > options.validity_h
        if borrowed and apart_h > options.borrow_days * 24:
            continue
        ranked.append((borrowed, not steady[transits[solution.id]], apart_h, solution.id))
    return [solution for *_, solution in sorted(ranked)]


def _refusal(group: GroupLike, failed: Sequence[str], options: CalibrationOptions) -> str:
    if failed:
        return f"every calibration that could serve it failed: {', '.join(failed)}"
    return (
        f"no calibrator transit within {options.borrow_days:g} days at declinations within "
        f"{options.strip_deg:g} deg of {group.dec_app_deg:+.2f}"
    )
