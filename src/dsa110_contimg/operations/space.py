"""Room on the disk: what there is, and what new work will take."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..conversion.inventory import Group
from ..core.errors import MachineError, SpaceError, message_of
from ..core.files import beside
from ..core.layout import Layout
from ..core.options import Config

__all__ = ["check_space", "free_space", "probe", "size_of"]

#: Free inodes below which a disk counts as full.
MIN_INODES = 1000


_GB = 1e9


# --- space ----------------------------------------------------------------------------------------


def free_space(path: Path) -> tuple[Path, int, int]:
    """Return the folder that exists of a path, and free and total bytes of its disk."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    usage = shutil.disk_usage(existing)
    return existing, usage.free, usage.total


def probe(folder: Path) -> None:
    """Write a small file in a folder, to see that it can be done.

    Raises
    ------
    MachineError
        If it cannot, with the reason and what to do.
    """
    path = beside(folder / "probe")
    try:
        try:
            with open(path, "wb") as file:
                file.write(bytes(4096))
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"{folder}: cannot write: {message_of(error)}") from error


def check_space(config: Config, groups: Iterable[Group] = ()) -> int:
    """See that there is room for work; return for how many groups.

    Parameters
    ----------
    config : Config
        ``operations.min_free_gb`` stays free; a group takes ``operations.space_factor`` times its
        raw files, less what exists of it already.
    groups : iterable of Group
        Groups that are to be made, in the order in which they are.

    Returns
    -------
    int
        Number of groups, from the first on, that there is room for.

    Raises
    ------
    SpaceError
        If there is no room for the first, or too little even without any.
    MachineError
        If nothing can be written.
    """
    path, free, _ = free_space(config.results)
    probe(path)
    options = config.operations
    reserve = options.min_free_gb * _GB
    inodes = os.statvfs(path)
    if inodes.f_files and inodes.f_favail < MIN_INODES:
        raise SpaceError(
            f"disk full: {inodes.f_favail} inodes free at {path}; remove files "
            f"('contimg clean', 'contimg purge')"
        )
    wanted, fitting = reserve, 0
    layout = Layout(config.results)
    for group in groups:
        raw = sum(map(size_of, map(Path, group.files.values())))
        wanted += max(0.0, options.space_factor * raw - size_of(layout.group(group.id)))
        if free < wanted:
            break
        fitting += 1
    if free < reserve or (fitting == 0 and wanted > reserve):
        raise SpaceError(
            f"disk full: {free / _GB:.3g} GB free at {path}, {wanted / _GB:.3g} GB wanted; free "
            f"space ('contimg clean', 'contimg purge') or lower operations.min_free_gb"
        )
    return fitting


def size_of(path: Path) -> int:
    """Return the size of a file, or of all in a folder, bytes; 0 if there is none."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(size_of(Path(entry.path)) for entry in os.scandir(path))
        return path.lstat().st_size if path.is_symlink() else path.stat().st_size
    except FileNotFoundError:
        return 0
