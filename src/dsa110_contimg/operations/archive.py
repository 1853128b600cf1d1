"""Closed nights to a second place: copied by rsync or rclone, then read back and compared.

What lies there, and was seen to be what lies here, is in ``nights/<night>/archive.json``; raw files
that are not in it are not purged. A copy is verified by its content: read back where the place is a
folder of this machine, by rsync's or rclone's checksums otherwise. Work goes in small parts, each
of which is recorded when it is done: what was interrupted goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import checksums
from ..core.errors import BusyError, ConfigError, ContimgError, DataError, MachineError, ToolError
from ..core.figures import GroupFigures
from ..core.files import remove, scratch, write_text
from ..core.layout import Layout
from ..core.options import ArchiveOptions, Config
from ..core.programs import run_tool
from ..core.sidecar import read_sidecar
from ..core.times import DAY_S, utc_now
from . import closing, locking
from .retention import AIDS

__all__ = ["Item", "Progress", "archive", "archived", "daily", "hold", "pending", "trouble"]

#: Files of a part, and bytes from which on a part is full.
PART_FILES, PART_BYTES = 64, 20e9
#: Time limit of reading the place's folder, and silence after which rsync gives up, s.
LOOK_S, SILENCE_S = 120.0, 300


@dataclass(frozen=True)
class Item:
    """A file that is to be archived.

    Attributes
    ----------
    source : Path
        Where it lies.
    name : str
        Its path in the archive, ``raw/<night>/...`` or ``nights/<night>/...``.
    size, mtime_ns : int
        Bytes; time of modification, ns since 1970.
    """

    source: Path
    name: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, source: Path, name: str) -> Item:
        """Return the item that a file is now."""
        stat = source.stat()
        return cls(source, name, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class Progress:
    """What was done of a night."""

    night: str
    files: int
    n_bytes: int
    files_left: int
    bytes_left: int


# --- what there is --------------------------------------------------------------------------------


def pending(config: Config, night: str) -> list[Item]:
    """Return the files of a closed night that are not in the archive as they are now.

    Raises
    ------
    DataError
        If the night's record of the archive, or a sidecar, cannot be read.
    """
    layout = Layout(config.results)
    known = _read_record(layout, night)
    items = itertools.chain(_raw(config, layout, night), _products(config.archive, layout, night))
    return [item for item in items if not _is_in(known, item)]


def archived(config: Config, night: str, path: Path) -> str | None:
    """Return why a raw file is not safe in the archive, or None if it is.

    Parameters
    ----------
    config : Config
        The configuration.
    night : str
        Night of the file.
    path : Path
        A raw file.
    """
    known = _read_record(Layout(config.results), night)
    item = Item.of(path, _raw_name(night, path))
    return None if _is_in(known, item) else "it is not in the archive; 'contimg archive' copies it"


def _is_in(known: dict[str, Any], item: Item) -> bool:
    entry = known.get(item.name, {})
    return (entry.get("size_bytes"), entry.get("mtime_ns")) == (item.size, item.mtime_ns)


def _raw_name(night: str, path: Path) -> str:
    return f"raw/{night}/{path.name}"


def _raw(config: Config, layout: Layout, night: str) -> Iterator[Item]:
    """Yield the raw files of a night's groups that lie in the incoming folder."""
    incoming = config.incoming.resolve()
    for record in sorted(layout.night(night, "groups").glob("*/group_*.hdf5.json")):
        group = read_sidecar(record.with_suffix(""), GroupFigures).figures.group
        for path in map(Path, group["files"].values()):
            if path.parent.resolve() == incoming:
                with suppress(FileNotFoundError):
                    yield Item.of(path, _raw_name(night, path))


def _products(options: ArchiveOptions, layout: Layout, night: str) -> Iterator[Item]:
    """Yield what is made of a night and never purged, if products are archived, too."""
    if not options.products:
        return
    passing = (*(f".{kind}.fits" for kind in AIDS), "/archive.json", "/purged.json")
    for folder, folders, names in os.walk(layout.night(night)):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not f.endswith(".ms"))
        for name in sorted(names):
            path = Path(folder, name)
            group_file = name.startswith("group_") and name.endswith(".hdf5")
            if name.startswith(".") or group_file or str(path).endswith(passing):
                continue
            with suppress(FileNotFoundError):
                yield Item.of(path, path.relative_to(layout.results).as_posix())


def _record_path(layout: Layout, night: str) -> Path:
    return layout.night(night, "archive.json")


def _read_record(layout: Layout, night: str) -> dict[str, Any]:
    """Return what is archived of a night, by its path in the archive."""
    path = _record_path(layout, night)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); remove it, and the night is archived anew"
        ) from None


# --- copying --------------------------------------------------------------------------------------


def archive(
    config: Config, nights: Iterable[str], until: float = float("inf")
) -> Iterator[Progress]:
    """Archive what is pending of some closed nights, and yield what was done, part by part.

    Parameters
    ----------
    config : Config
        Section ``archive`` says where to and how.
    nights : iterable of str
        Closed nights.
    until : float
        Time (of `time.monotonic`) after which no further part begins, s.

    Raises
    ------
    ConfigError
        If no archive is configured.
    MachineError
        If the place is not there.
    ToolError
        If the tool failed, or what lies there is not what lies here, also when it was copied again.
    """
    options = config.archive
    place = _Place.of(options)
    seen = False
    for night in nights:
        items = pending(config, night)
        bytes_left = sum(item.size for item in items)
        files_left = len(items)
        for part in _parts(items):
            if time.monotonic() >= until:
                return
            if not seen:
                place.look()
                seen = True
            _archive_part(config, place, night, part)
            n_bytes = sum(item.size for item in part)
            files_left, bytes_left = files_left - len(part), bytes_left - n_bytes
            yield Progress(night, len(part), n_bytes, files_left, bytes_left)


def _parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    part: list[Item] = []
    for item in items:
        part.append(item)
        if len(part) >= PART_FILES or sum(i.size for i in part) >= PART_BYTES:
            yield part
            part = []
    if part:
        yield part


def _archive_part(config: Config, place: _Place, night: str, part: Sequence[Item]) -> None:
    """Copy some files, verify the copies, and record them."""
    with scratch("archive") as folder:
        for item in part:  # the tree to be copied: links, so that any name goes to any place
            link = folder / item.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(item.source.absolute())
        place.copy(folder)
        sums = {item.name: checksums.of_file(item.source) for item in part}
        if place.differences(folder, sums):
            place.copy(folder, anew=True)  # one that looks the same by size and time is not copied
        if wrong := place.differences(folder, sums):
            raise ToolError(
                f"{place.target}: {len(wrong)} copies are not what was copied ({wrong[0]}); "
                f"check the disk and the network there"
            )
    if changed := [item for item in part if Item.of(item.source, item.name) != item]:
        raise DataError(f"{changed[0].source}: changed while it was archived; archive it again")
    layout = Layout(config.results)
    files = _read_record(layout, night)
    for item in part:
        files[item.name] = {
            "source": str(item.source),
            "size_bytes": item.size,
            "mtime_ns": item.mtime_ns,
            "sha256": sums[item.name],
            "utc": utc_now(),
            "target": place.target,
        }
    content = {"schema": 1, "night": night, "files": files}
    write_text(_record_path(layout, night), json.dumps(content, indent=1) + "\n")


def _sha256_on_disk(path: Path) -> str:
    """Return the checksum of a file as the disk has it, not as the kernel remembers it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return checksums.of_file(path)


@dataclass(frozen=True)
class _Place:
    """Where copies go, and the tool that takes them there."""

    target: str
    options: ArchiveOptions

    @classmethod
    def of(cls, options: ArchiveOptions) -> _Place:
        if options.target is None:
            raise ConfigError(
                "archive.target: none is set; name a folder, HOST:FOLDER, or rclone's REMOTE:FOLDER"
            )
        return cls(options.target, options)

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that it is; None for what is elsewhere."""
        return None if re.match(r"[^/]*:", self.target) else Path(self.target)

    def look(self) -> None:
        """Raise `MachineError` if it is not there: an absent mount must not be written into."""
        absent = f"archive.target: {self.target} is not there; mount it, or make it"
        if self.folder is not None:
            if not self.folder.is_dir():
                raise MachineError(absent)
            return
        rsync = ["rsync", "--list-only", "--dirs", f"--timeout={SILENCE_S}", "--secluded-args"]
        rclone = ["rclone", "lsf", "--max-depth=1"]
        command = rsync if self.options.tool == "rsync" else rclone
        ending = "/" if self.options.tool == "rsync" else ""
        try:
            run_tool([*command, "--", self.target + ending], timeout_s=LOOK_S)
        except ToolError as error:
            raise MachineError(f"{absent} ({error})") from None

    def copy(self, tree: Path, anew: bool = False) -> None:
        """Copy a tree of links to files.

        Parameters
        ----------
        tree : Path
            Its root.
        anew : bool
            Copy what is there by size and time, too.
        """
        rate = self.options.bandwidth_mb_s
        if self.options.tool == "rsync":
            command = ["rsync", "--recursive", "--copy-links", "--times", "--secluded-args"]
            command += ["--partial-dir=.partial", f"--timeout={SILENCE_S}"]
            command += [f"--bwlimit={rate * 1e6 / 1024:.0f}"] if rate else []
            command += ["--ignore-times"] if anew else []
            command += ["--", f"{tree}/", f"{self.target}/"]
        else:
            command = ["rclone", "copy", "--copy-links", "--stats-one-line", "--stats=1m"]
            command += [f"--bwlimit={rate:g}M"] if rate else []
            command += ["--ignore-times"] if anew else []
            command += ["--", str(tree), self.target]
        run_tool(command, timeout_s=self.options.timeout_s)

    def differences(self, tree: Path, sums: dict[str, str]) -> list[str]:
        """Return the names of copies that are absent, or hold something else.

        Parameters
        ----------
        tree : Path
            What was copied.
        sums : dict of str to str
            SHA-256 of the files, by their names below the tree.
        """
        if self.folder is not None:
            return [name for name, total in sums.items() if not _holds(self.folder / name, total)]
        if self.options.tool == "rsync":
            return self._rsync_differences(tree)
        with scratch("archive") as folder:
            report = folder / "differ"
            # Not all places keep checksums: what lies there is read.
            command = ["rclone", "check", "--download", "--one-way", "--copy-links"]
            command += [f"--combined={report}", "--", str(tree), self.target]
            with suppress(ToolError):
                run_tool(command, timeout_s=self.options.timeout_s)
            lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
        same = {line[2:] for line in lines if line.startswith("= ")}
        return [name for name in sums if name not in same]

    def _rsync_differences(self, tree: Path) -> list[str]:
        command = ["rsync", "--recursive", "--copy-links", "--checksum", "--dry-run"]
        command += ["--out-format=differs: %n", "--secluded-args", f"--timeout={SILENCE_S}"]
        found: list[str] = []

        def watch(line: str) -> None:
            if line.startswith("differs: ") and not line.rstrip("\n").endswith("/"):
                found.append(line.removeprefix("differs: ").rstrip("\n"))

        run_tool(
            [*command, "--", f"{tree}/", f"{self.target}/"],
            timeout_s=self.options.timeout_s,
            watch=watch,
        )
        return found


def _holds(path: Path, total: str) -> bool:
    try:
        return _sha256_on_disk(path) == total
    except FileNotFoundError:
        return False


# --- by itself ------------------------------------------------------------------------------------


def hold(config: Config) -> Any:
    """Hold the archive of a results folder: one copies at a time, beside whatever else is at work.

    Raises
    ------
    BusyError
        If another process archives.
    """
    return locking.hold(_state_folder(config), "archive")


def _state_folder(config: Config) -> Path:
    return config.results / ".archive"


def trouble(results: Path) -> str | None:
    """Return why the last attempt to archive by itself failed; None if it did not."""
    try:
        return (results / ".archive/trouble").read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def daily(config: Config) -> None:
    """Archive what is pending, if the policy is automatic, for ``archive.budget_s`` at most.

    When nothing is left, it is looked again after a day. A failure is kept for the alerts.
    """
    if not config.archive.automatic or config.archive.target is None:
        return
    folder = _state_folder(config)
    stamp = folder / "complete"
    with suppress(FileNotFoundError):
        if 0 <= time.time() - stamp.stat().st_mtime < DAY_S:
            return
    until = time.monotonic() + config.archive.budget_s
    try:
        with hold(config):
            for done in archive(config, closing.closed_nights(Layout(config.results)), until):
                print(f"{done.night}: {done.files} files archived, {done.files_left} to go")
            if time.monotonic() < until:
                stamp.touch()
            remove(folder / "trouble")
    except BusyError:
        return
    except (ContimgError, OSError) as error:
        print(f"archive: {error}", flush=True)
        with suppress(OSError):
            write_text(folder / "trouble", f"{error}\n")
