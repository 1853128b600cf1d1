"""Which group calibrates, and which solutions serve which group.

A pure function of the inventory, the calibrators, the recorded choices and the verdicts of the
solutions that exist. It runs whenever the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..catalogs.calibrators import Calibrator
from ..core.options import CalibrationOptions
from ..core.times import DAY_S, night_of
from .tables import LEAST_COMMON_ANTENNAS

__all__ = [
    "BAND_CENTRE_HZ",
    "CalibrationPlan",
    "GroupLike",
    "find_transits",
    "plan_calibration",
    "why_unfit",
]

#: Sidereal rate: how fast the meridian moves through right ascension, degrees per second.
RA_DEG_PER_S = 360.98564736629 / DAY_S
#: A transit this long after the end of a tile still counts: tiles are a second or two apart.
GAP_S = 5.0
#: Band centre, Hz; the beam there weighs calibrators.
BAND_CENTRE_HZ = 1.405e9
#: Solutions that a group may fall back on, the first included.
MAX_CANDIDATES = 3


class GroupLike(Protocol):
    """What the plan needs of a group; see `conversion.inventory.Group`."""

    id: str
    start_mjd: float
    duration_s: float
    dec_app_deg: float
    ra_deg: float
    dec_deg: float
    files: Mapping[int, str]
    antennas: str
    top_hz: float
    width_hz: float
    n_channels: int


#: Share of a calibrator in its field, for a declination of the pointing.
ShareOf = Callable[[Calibrator, float], float]


@dataclass(frozen=True)
class CalibrationPlan:
    """The plan.

    Attributes
    ----------
    transits : dict of str to str
        Group id to the name of the calibrator that transits during it: of every steady one, and of
        those others that serve some group.
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
    calibrators: Sequence[Calibrator],
    options: CalibrationOptions,
    records: Mapping[str, Mapping[str, Any]] | None = None,
    verdicts: Mapping[str, str] | None = None,
    share: ShareOf | None = None,
) -> CalibrationPlan:
    """Assign calibrator transits to groups.

    A solution may serve a group when it is of the same strip, covers its band, has at least half of
    its antennas, and has not failed. Within `validity_h` one that has all of the group's antennas
    and subbands serves before one that does not, one on a steady calibrator before one on any
    other, and then the nearest in time. Where there is none, borrowed ones follow in the same
    order, up to `borrow_days`. The best one's night gives all candidates; behind steady
    calibrators stands one other, the nearest to the first of them.

    A group that was calibrated keeps its recorded candidates, so that a solution which appears
    later changes nothing that is done; the record is void when the solution it chose has failed
    since.

    Parameters
    ----------
    groups : sequence of Group
        Groups to calibrate, and to find transits in.
    calibrators : sequence of catalogs.Calibrator
        In order of preference.
    options : CalibrationOptions
        Limits.
    records : mapping, optional
        Group id to the content of its ``calibration.json``.
    verdicts : mapping, optional
        Calibrator group id to the verdict of its solution; absent where it is still to be solved.
    share : callable, optional
        See `find_transits`.
    """
    records, verdicts = records or {}, verdicts or {}
    transits = find_transits(groups, calibrators, options, share)
    steady = {c.name: c.steady for c in calibrators}
    solutions = _Solutions.of([g for g in groups if g.id in transits], transits, steady)
    plan = CalibrationPlan()
    for group in groups:
        record = records.get(group.id)
        if record and _still_holds(record, verdicts):
            plan.candidates[group.id] = list(record["candidates"])
            plan.transits.update(record.get("calibrators", {}))
            continue
        ladder = _ladder(group, solutions, options, verdicts)
        if ladder:
            plan.candidates[group.id] = ladder
        else:
            plan.refused[group.id] = _refusal(group, solutions, options, verdicts)
    used = {solution for ladder in plan.candidates.values() for solution in ladder}
    for solution, name in transits.items():
        if solution in used or steady[name]:
            plan.transits[solution] = name
    return plan


def find_transits(
    groups: Sequence[GroupLike],
    calibrators: Sequence[Calibrator],
    options: CalibrationOptions,
    share: ShareOf | None = None,
) -> dict[str, str]:
    """Return which groups hold the transit of which calibrator.

    The right ascension of the calibrator must lie within the tile, its declination within
    `max_offset_deg` of the pointing, its flux times the beam be above `min_flux_jy`, and its share
    of the field above `min_field_share`. Of several in one tile the first steady one in the order
    of `calibrators` is taken; without one, the one with the largest flux times beam, of the list
    (`anchor`) that comes first. Of two tiles that both hold a transit, the one nearer to it counts.

    Parameters
    ----------
    groups, calibrators, options
        As of `plan_calibration`.
    share : callable, optional
        Gives the share of a calibrator (first argument) in the beam-weighted flux of its field when
        the pointing is at a declination, ICRS, deg (second argument); see `field_share`.
    """
    if not groups or not calibrators:
        return {}
    order = sorted(groups, key=lambda g: g.dec_deg)
    group_ra, group_dec, group_mjd, half_s = (
        np.array(column)
        for column in zip(
            *((g.ra_deg, g.dec_deg, _middle_mjd(g), g.duration_s / 2) for g in order), strict=True
        )
    )
    lists = {name: n for n, name in enumerate(dict.fromkeys(c.anchor for c in calibrators))}
    found: dict[int, list[tuple]] = {}
    for rank, calibrator in enumerate(calibrators):
        reach = options.max_offset_deg
        first, last = np.searchsorted(
            group_dec, (calibrator.dec_deg - reach, calibrator.dec_deg + reach)
        )
        if first == last or calibrator.flux(BAND_CENTRE_HZ) < options.min_flux_jy:
            continue
        # Seconds from mid-tile to transit; the meridian moves east.
        late_s = ((calibrator.ra_deg - group_ra[first:last] + 180) % 360 - 180) / RA_DEG_PER_S
        near = first + np.flatnonzero(np.abs(late_s) <= half_s[first:last] + GAP_S)
        late = dict(zip(near, np.abs(late_s[near - first]), strict=True))
        for i in _one_tile_each(late, group_mjd, half_s):
            flux = _apparent_flux(calibrator, abs(calibrator.dec_deg - group_dec[i]))
            if flux < options.min_flux_jy:
                continue
            if share is not None and share(calibrator, group_dec[i]) < options.min_field_share:
                continue
            place = (0, rank, 0) if calibrator.steady else (1, lists[calibrator.anchor], -flux)
            found.setdefault(i, []).append((place, calibrator.name))
    chosen = {order[i].id: min(names)[1] for i, names in found.items()}
    return {g.id: chosen[g.id] for g in groups if g.id in chosen}


def _one_tile_each(
    late_s: Mapping[int, float], mid_mjd: np.ndarray, half_s: np.ndarray
) -> list[int]:
    """Drop tiles that overlap in time (within the gap) with one nearer to the same transit."""
    kept: list[int] = []
    for i in sorted(late_s, key=lambda i: mid_mjd[i]):
        if kept:
            k = kept[-1]
            apart_s = (mid_mjd[i] - mid_mjd[k]) * DAY_S
            if apart_s <= half_s[i] + half_s[k] + 2 * GAP_S:
                kept[-1] = min(k, i, key=lambda j: late_s[j])
                continue
        kept.append(i)
    return kept


def _apparent_flux(calibrator: Calibrator, offset_deg: float) -> float:
    """Return the flux at transit times the beam, Jy."""
    from ..telescope.beam import airy_power

    response = airy_power(math.radians(offset_deg), BAND_CENTRE_HZ)
    return float(calibrator.flux(BAND_CENTRE_HZ) * response)


def _still_holds(record: Mapping[str, Any], verdicts: Mapping[str, str]) -> bool:
    chosen = record.get("chosen")
    return chosen is not None and verdicts.get(chosen) != "fail"


def _middle_mjd(group: GroupLike) -> float:
    return group.start_mjd + group.duration_s / 2 / DAY_S


@dataclass(frozen=True)
class _Solutions:
    """Groups that hold a transit, in order of time."""

    groups: list[GroupLike]
    mjd: list[float]
    steady: dict[str, bool]

    @classmethod
    def of(
        cls, groups: Sequence[GroupLike], transits: Mapping[str, str], steady: Mapping[str, bool]
    ) -> _Solutions:
        ordered = sorted(groups, key=_middle_mjd)
        return cls(
            ordered,
            [_middle_mjd(g) for g in ordered],
            {g.id: steady[transits[g.id]] for g in ordered},
        )

    def near(self, group: GroupLike, hours: float, strip_deg: float) -> list[GroupLike]:
        """Return those of a group's strip within some hours."""
        middle = _middle_mjd(group)
        first = bisect.bisect_left(self.mjd, middle - hours / 24)
        last = bisect.bisect_right(self.mjd, middle + hours / 24)
        return [
            s
            for s in self.groups[first:last]
            if abs(s.dec_app_deg - group.dec_app_deg) <= strip_deg
        ]


def _ladder(
    group: GroupLike,
    solutions: _Solutions,
    options: CalibrationOptions,
    verdicts: Mapping[str, str],
) -> list[str]:
    """Return the ids of the solutions that serve a group, best first."""
    for hours in (options.validity_h, options.borrow_days * 24):
        usable = [
            s
            for s in solutions.near(group, hours, options.strip_deg)
            if verdicts.get(s.id) != "fail" and why_unfit(s, group) is None
        ]
        if usable:
            break
    else:
        return []

    def place(solution: GroupLike) -> tuple:
        apart = abs(_middle_mjd(solution) - _middle_mjd(group))
        return not _is_whole(solution, group), not solutions.steady[solution.id], apart, solution.id

    usable.sort(key=place)
    # A night rests on its own solutions, or on one other: not on whatever else would serve.
    night = night_of(usable[0].id)
    usable = [s for s in usable if night_of(s.id) == night]
    standards = [s for s in usable if solutions.steady[s.id]][:MAX_CANDIDATES]
    others = [s for s in usable if not solutions.steady[s.id]]
    if standards and others:
        # One fallback that all groups share: each one more is one more to be solved.
        others = [min(others, key=lambda s: abs(_middle_mjd(s) - _middle_mjd(standards[0])))]
    ladder = sorted((standards + others), key=place)[:MAX_CANDIDATES]
    return [s.id for s in ladder]


def why_unfit(solution: GroupLike, group: GroupLike) -> str | None:
    """Return why a solution's antennas or channels cannot serve a group, or None if they can.

    What is not known of either is taken to fit; `apply` looks again at the tables themselves.
    """
    if solution.antennas and group.antennas:
        wanted = int(group.antennas, 16)
        common = (wanted & int(solution.antennas, 16)).bit_count()
        if common < LEAST_COMMON_ANTENNAS * wanted.bit_count():
            return f"it has only {common} of the {wanted.bit_count()} antennas"
    if solution.n_channels and group.n_channels:
        (low, high), (from_hz, to_hz) = _band(group), _band(solution)
        margin = max(solution.width_hz, group.width_hz) * 0.55
        if low < from_hz - margin or high > to_hz + margin:
            return f"it covers {from_hz / 1e6:.1f} to {to_hz / 1e6:.1f} MHz"
    return None


def _band(group: GroupLike) -> tuple[float, float]:
    """Return the edges of the band, Hz."""
    top = group.top_hz + group.width_hz / 2
    return top - group.n_channels * group.width_hz, top


def _is_whole(solution: GroupLike, group: GroupLike) -> bool:
    """Return whether a solution has all of a group's antennas and subbands."""
    known = bool(solution.antennas and group.antennas)
    lacks = known and int(group.antennas, 16) & ~int(solution.antennas, 16)
    return not lacks and set(group.files) <= set(solution.files)


def _refusal(
    group: GroupLike,
    solutions: _Solutions,
    options: CalibrationOptions,
    verdicts: Mapping[str, str],
) -> str:
    hours = max(options.borrow_days * 24, options.validity_h)
    near = solutions.near(group, hours, options.strip_deg)
    reasons = [
        f"{s.id} {'failed' if verdicts.get(s.id) == 'fail' else why_unfit(s, group)}" for s in near
    ]
    if reasons:
        return f"no calibration can serve it: {'; '.join(reasons)}"
    return (
        f"no calibrator transit within {options.borrow_days:g} days at declinations within "
        f"{options.strip_deg:g} deg of {group.dec_app_deg:+.2f}"
    )
