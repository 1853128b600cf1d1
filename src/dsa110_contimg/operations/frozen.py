"""What a run hands to its jobs, frozen when it begins: configuration, plan, inventory.

One look at the incoming folder serves the whole run: jobs on a cluster parse the workflow again,
and would see what has arrived since. The plan lies there by night, so that what a job reads does
not grow with the nights before it. All goes by file, not by the command line: there the engine
turns empty values and numbers into words, and its jobs have a shell read them again.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..calibration.plan import CalibrationPlan
from ..conversion.inventory import Inventory
from ..core.files import beside, remove
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import NIGHT, night_of
from . import locking, planning
from .planning import Plan

__all__ = [
    "PLAN",
    "begin",
    "folder_of",
    "freeze",
    "inventory_path",
    "load",
    "needed_for",
    "nights_of_jobs",
    "options",
    "plan_of",
    "tables_path",
]

#: Environment variable that names the folder with a frozen plan.
PLAN = "CONTIMG_PLAN"

#: Fields of a plan that hold something for each group or night.
BY_GROUP = ("transits", "candidates", "refused")
BY_NIGHT = ("epochs", "joint")


def folder_of(layout: Layout) -> Path:
    """Return the folder with what the run at work on a results folder handed to its jobs."""
    return layout.results / ".frozen"


def inventory_path(layout: Layout) -> Path:
    """Return where the inventory of the latest run is."""
    return layout.results / "inventory.json"


def tables_path(layout: Layout) -> Path:
    """Return the file that names the photometry of all nights that make the light curves."""
    return folder_of(layout) / "photometry.list"


def freeze(
    config: Config, plan: Plan, folder: Path, inventory: Path, nights: Iterable[str] | None = None
) -> dict[str, str]:
    """Write what jobs are handed; return what tells them in their environment where it is.

    Parameters
    ----------
    config : Config
        The configuration; it is `config.json` in the folder.
    plan : Plan
        The plan.
    folder : path
        Where it goes: `folder_of` if the results folder is held, else a private one.
    inventory : path
        File for the inventory.
    nights : iterable of str, optional
        Nights that are worked on, of those of the plan; otherwise all of them.
    """
    folder, inventory = folder.absolute(), inventory.absolute()
    nights = plan.nights if nights is None else sorted({*nights} & {*plan.nights})
    _write(inventory, TypeAdapter(Inventory).dump_json(plan.inventory, indent=1).decode())
    _write(folder / "config.json", config.model_dump_json(indent=1) + "\n")
    layout = Layout(config.results)
    tables = (layout.night(night, "photometry.csv") for night in plan.measured_nights)
    _write(folder / "photometry.list", "".join(f"{table}\n" for table in tables))
    parts = {"plan": _common(plan, nights), **_by_night(plan, nights)}
    for name, part in parts.items():
        _write(folder / f"{name}.json", _adapter().dump_json(part, indent=1).decode())
    for path in folder.glob("*.json"):
        if path.stem not in (*parts, "config"):
            remove(path)
    return {PLAN: str(folder), planning.FROZEN: str(inventory)}


@functools.cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def options(folder: Path) -> list[str]:
    """Return the options of Snakemake that hand over the configuration."""
    return ["--configfile", str(folder.absolute() / "config.json")]


def _write(path: Path, text: str) -> None:
    """Write a file whole, unless it holds just that; what dies with the run waits for no disk."""
    if not path.is_file() or path.read_bytes() != text.encode():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(path)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def _common(plan: Plan, nights: Sequence[str]) -> Plan:
    """Return what a plan says of all nights together."""
    return replace(
        plan,
        inventory=Inventory([], []),
        nights=tuple(nights),
        groups={},
        calibration=CalibrationPlan(),
        epochs={},
        joint={},
        measured=tuple(plan.measured_nights),
        judged=tuple(plan.judged_nights),
        settled=frozenset(),
        solved=frozenset(),
        failures=(),
    )


def _by_night(plan: Plan, nights: Sequence[str]) -> dict[str, Plan]:
    """Return what a plan says of each night."""
    groups = _divided(plan.groups, nights)
    ladders = {name: _divided(getattr(plan.calibration, name), nights) for name in BY_GROUP}
    settled = _divided(dict.fromkeys(plan.settled), nights)
    solved = _divided(dict.fromkeys(plan.solved), nights)
    return {
        night: replace(
            _common(plan, ()),
            nights=(night,),
            groups=groups[night],
            calibration=CalibrationPlan(**{name: found[night] for name, found in ladders.items()}),
            epochs={n: epoch for n, epoch in plan.epochs.items() if n == night},
            joint={n: fields for n, fields in plan.joint.items() if n == night},
            measured=(),
            judged=(),
            settled=frozenset(settled[night]),
            solved=frozenset(solved[night]),
            set_aside=frozenset(),
            spared=frozenset(),
            kept={},
            failures=tuple(f for f in plan.failures if f.wildcards.get("night") == night),
        )
        for night in nights
    }


def _divided(of_groups: Mapping[str, Any], nights: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Divide what is known of groups by their nights, of those that are asked for."""
    found: dict[str, dict[str, Any]] = {night: {} for night in nights}
    for group, value in of_groups.items():
        if (night := night_of(group)) in found:
            found[night][group] = value
    return found


def load(folder: Path, nights: Iterable[str] | None = None) -> Plan:
    """Return a frozen plan.

    Parameters
    ----------
    folder : path
        Where it is.
    nights : iterable of str, optional
        Nights of which all is wanted; otherwise all that are worked on.
    """

    def read(name: str) -> Plan:
        return _adapter().validate_json((folder / f"{name}.json").read_bytes())

    plan = read("plan")
    for night in plan.nights if nights is None else sorted(nights):
        part = read(night)
        plan.groups.update(part.groups)
        for name in BY_GROUP:
            getattr(plan.calibration, name).update(getattr(part.calibration, name))
        for name in BY_NIGHT:
            getattr(plan, name).update(getattr(part, name))
        plan = replace(
            plan,
            settled=plan.settled | part.settled,
            solved=plan.solved | part.solved,
            failures=(*plan.failures, *part.failures),
        )
    return plan


def needed_for(plan: Plan, night: str) -> set[str]:
    """Return the nights that the tiles of one rest on: those of their calibrations, too."""
    ladders = (ladder for i, ladder in plan.calibration.candidates.items() if night_of(i) == night)
    return {night, *(night_of(group) for ladder in ladders for group in ladder)}


def nights_of_jobs(arguments: Sequence[str]) -> list[str]:
    """Return the nights that the jobs are of that a process was started for, from its arguments."""
    jobs = arguments[arguments.index("--target-jobs") + 1 :] if "--target-jobs" in arguments else ()
    return sorted({night for job in jobs for night in re.findall(rf"[:,]night=({NIGHT})", job)})


def plan_of(config: Config, job_of: Sequence[str] | None = None) -> Plan:
    """Return the plan that this process was handed, or else one of its own.

    Parameters
    ----------
    config : Config
        The configuration.
    job_of : sequence of str, optional
        Arguments of a process that was started for some jobs: it is told what concerns these.
    """
    if folder := os.environ.get(PLAN):
        return load(Path(folder), None if job_of is None else nights_of_jobs(job_of))
    return planning.make_plan(config)


def begin(config: Config, plan: Plan) -> None:
    """Begin a run of Snakemake that no command of ours called: hold the results folder; freeze.

    Raises
    ------
    BusyError
        If another run holds the results folder.
    """
    if PLAN in os.environ:
        return
    layout = Layout(config.results)
    if not locking.held(layout.results):
        holder = locking.hold(layout.results, "snakemake")
        holder.__enter__()
        atexit.register(holder.__exit__, None, None, None)
    os.environ |= freeze(config, plan, folder_of(layout), inventory_path(layout))
