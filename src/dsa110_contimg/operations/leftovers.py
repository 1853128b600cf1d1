"""What killed jobs left behind, and products that a wrong clock dated."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from ..core.errors import message_of
from ..core.files import HOST, is_mine, owner, private_folders, remove
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import DAY_S
from . import closing

__all__ = ["discard", "remove_stale", "set_times_right", "stale"]

log = logging.getLogger(__name__)

#: Age at which a temporary is nobody's, whoever its name says is at work on it, s.
STALE_S = DAY_S


# --- what killed jobs left ------------------------------------------------------------------------


def stale(
    config: Config, nights: Iterable[str] | None = None, now: float | None = None
) -> list[Path]:
    """Return temporaries that no job is at work on, and what was being deleted.

    They lie in the results folder, in the incoming one (raw files that were being deleted), in this
    user's own folder of temporaries and in the scratch folder of the conversion. What belongs to
    somebody else, or cannot be looked into, is none of them.

    Parameters
    ----------
    config : Config
        The configuration.
    nights : iterable of str, optional
        Nights to look into; otherwise the whole results folder is searched.
    now : float, optional
        Time to judge by, seconds since 1970.
    """
    now = time.time() if now is None else now
    found = [path for folder in private_folders() for path in folder.glob(".tmp-*")]
    found += config.incoming.glob(".old-*")
    if config.conversion.scratch is not None:
        found += config.conversion.scratch.glob(".tmp-*")
    layout = Layout(config.results)
    folders = [layout.results, layout.results / "runs", layout.lightcurves()]
    for night in nights or ():
        folders += [layout.night(night), *layout.night(night, "groups").glob("*")]
    if nights is None:  # all of it, but for the campaigns' own results
        below = layout.results.glob("*/")
        folders += [p for f in below if f != layout.campaigns for p in (f, *f.rglob("*/"))]
    for folder in dict.fromkeys(folders):
        for kind in (".tmp-*", ".old-*"):
            found += folder.glob(kind)
    return sorted(path for path in set(found) if is_mine(path) and _is_stale(path, now))


def _is_stale(path: Path, now: float) -> bool:
    """Tell whether the process that a temporary's name tells is gone, or it is too old anyway."""
    if (who := owner(path)) is None:
        return False
    process, host = who
    if host == HOST and not Path(f"/proc/{process}").exists():
        return True
    return now - _newest(path) > STALE_S


def _newest(path: Path) -> float:
    """Return when anything in a temporary changed last; now, if that cannot be told."""
    try:
        times = [path.lstat().st_mtime]
        if path.is_dir() and not path.is_symlink():
            times += [_newest(Path(entry.path)) for entry in os.scandir(path)]
        return max(times)
    except (FileNotFoundError, PermissionError):
        return time.time()


def remove_stale(config: Config, nights: Iterable[str] | None = None) -> list[Path]:
    """Delete what `stale` finds, and return what is gone."""
    return [path for path in stale(config, nights) if discard(path)]


def discard(path: Path) -> bool:
    """Delete a left-over; tell whether that could be done: it is not worth a run."""
    try:
        remove(path)
    except OSError as error:
        log.warning("%s", message_of(error))
        return False
    return True


def set_times_right(config: Config, now: float | None = None) -> int:
    """Date products that a clock once ahead dated in the future to now; return how many there were.

    To Snakemake an input from the future is newer than all that is made of it. Whether there are
    any is told by the folder of the records of runs, to which every run writes when it ends.

    Parameters
    ----------
    config : Config
        The configuration.
    now : float, optional
        The present, seconds since 1970.
    """
    now = time.time() if now is None else now
    layout = Layout(config.results)
    records = layout.results / "runs"
    if not _is_ahead(records, now):
        return 0
    places = [records, layout.lightcurves()]
    for night in closing.nights_on_disk(layout):
        if (closed := closing.path_of(layout, night)).is_file() and not _is_ahead(closed, now):
            continue
        places.append(layout.night(night))
    paths = [path for path in layout.results.iterdir() if path.is_file()]
    for place in places:
        paths += [place, *place.rglob("*")]
    ahead = [path for path in paths if _is_ahead(path, now)]
    for path in ahead:
        os.utime(path, (now, now), follow_symlinks=False)
    return len(ahead)


def _is_ahead(path: Path, now: float) -> bool:
    try:
        return path.lstat().st_mtime > now + 1.0
    except FileNotFoundError:
        return False
