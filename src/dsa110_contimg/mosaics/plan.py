"""Epoch plan: which tiles make which mosaic.

A pure function of group ids and options; it reads no file, so that the workflow can call it while
it builds its graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..core.options import MosaicOptions
from ..core.times import DAY_S, clock_of, group_mjd, night_of
from ..telescope.dsa110 import TILE_S

__all__ = ["NightPlan", "plan_epochs", "plan_joint"]

#: A tile sees a field whose centre is nearer than this to its own: there the beam has a third.
FIELD_REACH_DEG = 1.7

#: Tiles whose starts are further apart share hardly any sky: three tiles are 3.9 deg of right
#: ascension, and the beam falls below 0.2 at 2 deg. A restart gap of ten minutes breaks no run.
CONTIGUOUS_S = 3 * TILE_S


@dataclass(frozen=True)
class NightPlan:
    """The mosaics of one night.

    Attributes
    ----------
    tiles : list of str
        Ids of the groups of the nightly mosaic, in order of time.
    hours : dict of str to list of str
        For each UTC hour (``"00"`` ... ``"23"``) in which a tile begins, the tiles of the hourly
        mosaic: those of the hour and, on either side, their neighbours.
    """

    tiles: list[str]
    hours: dict[str, list[str]]


def plan_epochs(groups: Iterable[str], options: MosaicOptions) -> dict[str, NightPlan]:
    """Assign tiles to nightly and hourly mosaics.

    An hour is joined by up to ``overlap_tiles`` tiles on either side, as long as the run of tiles
    is not broken (`CONTIGUOUS_S`). Neighbours come from the same night only: a night is a UTC day,
    its products depend on its own tiles and do not change when the next night arrives.

    Parameters
    ----------
    groups : iterable of str
        Group ids, in any order; repeated ids count once.
    options : MosaicOptions
        ``overlap_tiles`` is used.

    Returns
    -------
    dict of str to NightPlan
        Plans by night (``YYYY-MM-DD``), in order of time.
    """
    nights: dict[str, list[str]] = {}
    for group in sorted(set(groups)):
        nights.setdefault(night_of(group), []).append(group)
    return {night: NightPlan(tiles, _hours(tiles, options)) for night, tiles in nights.items()}


def plan_joint(
    centres: Mapping[str, tuple[float, float]], fields: Mapping[str, str]
) -> dict[str, dict[str, list[str]]]:
    """Find the tiles of each field that is imaged from its visibilities.

    Parameters
    ----------
    centres : mapping
        Right ascension and declination (ICRS, deg) of the middle of each group.
    fields : mapping
        ``JointOptions.fields``: name to centre and radius.

    Returns
    -------
    dict
        By night and field, the tiles that see the field's centre, in order of time; two or more.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, text in fields.items():
        ra, dec, _ = map(float, text.split())
        for group in sorted(centres):
            if _separation_deg((ra, dec), centres[group]) < FIELD_REACH_DEG:
                found.setdefault(night_of(group), {}).setdefault(name, []).append(group)
    return {
        night: several
        for night, own in found.items()
        if (several := {name: tiles for name, tiles in own.items() if len(tiles) > 1})
    }


def _separation_deg(one: tuple[float, float], other: tuple[float, float]) -> float:
    (ra1, dec1), (ra2, dec2) = (map(math.radians, place) for place in (one, other))
    half = math.sin((dec1 - dec2) / 2) ** 2
    half += math.cos(dec1) * math.cos(dec2) * math.sin((ra1 - ra2) / 2) ** 2
    return math.degrees(2 * math.asin(math.sqrt(min(half, 1.0))))


def _hours(tiles: list[str], options: MosaicOptions) -> dict[str, list[str]]:
    indices: dict[str, list[int]] = {}
    for index, tile in enumerate(tiles):
        indices.setdefault(clock_of(tile)[:2], []).append(index)
    return {
        hour: tiles[_walk(tiles, own[0], -1, options) : _walk(tiles, own[-1], 1, options) + 1]
        for hour, own in indices.items()
    }


def _walk(tiles: list[str], index: int, step: int, options: MosaicOptions) -> int:
    """Return the index reached from `index` in at most ``overlap_tiles`` unbroken steps."""
    for _ in range(options.overlap_tiles):
        following = index + step
        if not 0 <= following < len(tiles):
            break
        if abs(group_mjd(tiles[following]) - group_mjd(tiles[index])) * DAY_S > CONTIGUOUS_S:
            break
        index = following
    return index
