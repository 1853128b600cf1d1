"""What was asked for by name: whether it can be made; if not, why, and what there is instead."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable

from ..core.errors import ConfigError
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import GROUP_ID, NIGHT, group_mjd, night_mjd
from ..imaging.presets import optional_products
from . import closing, targets
from .planning import Plan

__all__ = ["check"]

#: Number of other nights or groups that are named.
_SHOWN = 3


def check(names: Iterable[str], plan: Plan, config: Config) -> None:
    """Refuse what no run can make.

    Parameters
    ----------
    names : iterable of str
        Groups, nights and products that were asked for.
    plan : Plan
        The plan of a run on their nights.
    config : Config
        The configuration.

    Raises
    ------
    ConfigError
        With one line that tells why it cannot be made, and what there is.
    """
    layout = Layout(config.results)
    for name in names:
        if re.fullmatch(GROUP_ID, name):
            _check_group(name, plan, layout)
        elif re.fullmatch(NIGHT, name):
            _check_night(name, plan, layout)
        else:
            _check_product(name, plan, layout, config)


def _check_group(group: str, plan: Plan, layout: Layout) -> None:
    if group in plan.targets or layout.group(group, "photometry.csv").exists():
        return
    known = {g.id for g in plan.inventory.groups} | plan.groups.keys() | plan.settled
    if group not in known and group not in plan.set_aside:
        raise ConfigError(
            f"{group}: there is no such group; {_nearest(group, known, group_mjd) or 'nor any'}"
        )
    raise ConfigError(f"{group}: it cannot be made: {_why_not(group, plan)}")


def _check_night(night: str, plan: Plan, layout: Layout) -> None:
    if night in plan.epochs or layout.night(night, "report.html").exists():
        return
    groups = [g for g in plan.inventory.groups if g.night == night]
    if night in plan.set_aside:
        raise ConfigError(f"{night}: it cannot be made: {_why_not(night, plan)}")
    if not groups:
        known = {*closing.nights_on_disk(layout), *(g.night for g in plan.inventory.groups)}
        nearest = _nearest(night, known - {night}, night_mjd) or "there are none of any night"
        raise ConfigError(f"{night}: there are no data of this night; {nearest}")
    reasons = Counter(_why_not(g.id, plan) for g in groups)
    told = "; ".join(f"{n} of {len(groups)} groups: {why}" for why, n in reasons.most_common())
    raise ConfigError(f"{night}: nothing of it can be made: {told}")


def _why_not(name: str, plan: Plan) -> str:
    """Return why a group or night is not worked on."""
    for failure in plan.failures:
        if failure.what == name and name in plan.set_aside:
            again = f"repeat it with 'contimg retry {name}'"
            return f"set aside: {failure.rule}: {failure.message}; {again}"
    if reason := plan.calibration.refused.get(name):
        return reason
    if name in plan.settled:
        return "its data were purged; make its night once more with --campaign"
    group = next((g for g in plan.inventory.groups if g.id == name), None)
    if group is None or group.state in closing.READY:
        return "it is not worked on"
    state = "still arriving" if group.state == "collecting" else group.state
    return "; ".join([state, *group.reasons])


def _check_product(name: str, plan: Plan, layout: Layout, config: Config) -> None:
    if os.path.lexists(name):
        return
    here, results = os.path.realpath(name), os.path.realpath(layout.results)
    place = os.path.relpath(here, results)
    if place.startswith(".."):
        raise ConfigError(
            f"{name}: neither a group (20260213T043210), a night (2026-02-13), nor a product in "
            f"{layout.results}"
        )
    if group := re.match(rf"nights/[^/]+/groups/({GROUP_ID})/", place):
        if group[1] not in plan.groups:
            _check_group(group[1], plan, layout)
    elif night := re.match(rf"nights/({NIGHT})/", place):
        _check_night(night[1], plan, layout)
    known = _products(plan, layout, config)
    if place not in known and "/joint_" not in place:
        close = difflib.get_close_matches(place, known, 1)
        hint = f"did you mean {layout.results / close[0]}?" if close else "no step makes it"
        raise ConfigError(f"{name}: no such product; {hint}")


def _products(plan: Plan, layout: Layout, config: Config) -> list[str]:
    """Return all that steps make, below the results folder."""
    kinds = ("cal.ms", "cal.ms.json", *optional_products(config.imaging))
    more = [str(layout.group(group, kind)) for group in plan.targets for kind in kinds]
    paths = [*targets.all_targets(plan, layout), *more]
    return [os.path.relpath(path, layout.results) for path in paths]


def _nearest(name: str, known: Iterable[str], mjd: Callable[[str], float]) -> str:
    """Return the nearest in time of what there is, in words; nothing where there is none."""
    near = sorted(known, key=lambda other: abs(mjd(other) - mjd(name)))[:_SHOWN]
    return f"the nearest are {', '.join(sorted(near))}" if near else ""
