"""Snakemake's records of what was made with which options: bounded, and kept.

Snakemake has a file for each product that was ever made, ``.snakemake/metadata``, and one for each
that was begun, ``.snakemake/incomplete``; their names are those of the products. Those of a closed
night go together into one file of the night. When the night is worked on again they come back: an
option that has changed meanwhile is noticed.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..core.files import beside, replacing
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import DAY_S, NIGHT
from . import closing

__all__ = ["daily", "pack", "pack_of", "unpack"]

#: Where Snakemake keeps its state, from the folder that holds the results.
STATE = Path(".snakemake")
#: Folders of records; the last is that of marks of what was begun.
KINDS = ("metadata", "incomplete")
#: Most records that are put away at a time: the first time after years there are millions.
AT_ONCE = 200_000
#: Most logs of Snakemake that are kept, whatever their age.
MOST_LOGS = 1000


def pack_of(layout: Layout, night: str) -> Path:
    """Return where the records of a closed night are."""
    return layout.night(night, "records.json.gz")


def daily(config: Config) -> int:
    """Put away the records of closed nights, and old logs, if it was not done within a day.

    Only who holds the results folder may call this. Returns the number of records.
    """
    layout = Layout(config.results)
    stamp = layout.results / ".packed"
    with suppress(FileNotFoundError):
        if 0 <= time.time() - stamp.stat().st_mtime < DAY_S:
            return 0
    packed = pack(layout, closing.closed_nights(layout))
    _remove_old_logs(config.retention.logs_days)
    if packed < AT_ONCE:
        stamp.touch()
    return packed


def pack(layout: Layout, nights: Iterable[str]) -> int:
    """Put the records of some nights into one file each; return how many there were.

    A night's file is whole before the first of its records goes.
    """
    chosen = set(nights)
    place = re.compile(rf"{re.escape(str(layout.results))}/nights/({NIGHT})/")
    found: defaultdict[str, list[tuple[str, str, Path]]] = defaultdict(list)
    number = 0
    for kind in KINDS:
        for name, path in _records(STATE / kind):
            if (match := place.match(name)) and match[1] in chosen and number < AT_ONCE:
                number += 1
                found[match[1]].append((kind, name[match.end() :], path))
    for night, records in found.items():
        content = _read(layout, night)
        for kind, name, path in records:
            content[kind][name] = path.read_text(encoding="utf-8")
        with replacing(pack_of(layout, night)) as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(content).encode(), 6))
        for _, _, path in records:
            path.unlink()
            with suppress(OSError):  # the folders of a long name, when they are empty
                os.removedirs(path.parent)
    for kind in KINDS:
        (STATE / kind).mkdir(parents=True, exist_ok=True)
    return number


def unpack(layout: Layout, nights: Iterable[str]) -> None:
    """Bring back the records of some nights, where there are none of later.

    The file of a night stays: anybody may call this, also for a run that makes nothing.
    """
    for night in nights:
        if not pack_of(layout, night).is_file():
            continue
        for kind, records in _read(layout, night).items():
            for name, text in records.items():
                _write(_path(STATE / kind, str(layout.night(night, name))), text)


def _write(path: Path, text: str) -> None:
    """Write a record, whole, unless there is one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(STATE / path.name[:40])
    temporary.write_text(text, encoding="utf-8")
    with suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()


def _read(layout: Layout, night: str) -> dict[str, dict[str, str]]:
    """Return the packed records of a night by kind and name; none where they cannot be read."""
    try:
        content = json.loads(gzip.decompress(pack_of(layout, night).read_bytes()))
        return {kind: dict(content[kind]) for kind in KINDS}
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return {kind: {} for kind in KINDS}


def _records(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name of each product that a folder has a record of, and where that is.

    The record's name is that of the product in base64; one too long is divided into folders.
    """
    for top, _, files in os.walk(folder):
        parts = Path(top).relative_to(folder).parts
        for file in files:
            code = "".join(part.removeprefix("@") for part in (*parts, file))
            with suppress(binascii.Error, UnicodeDecodeError):
                yield base64.urlsafe_b64decode(code).decode(), Path(top, file)


def _path(folder: Path, name: str) -> Path:
    """Return where the record of a product is."""
    code, longest = base64.urlsafe_b64encode(name.encode()).decode(), 254
    parts = [code[i : i + longest] for i in range(0, len(code), longest)]
    return folder.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def _remove_old_logs(days: float | None) -> None:
    """Remove Snakemake's logs of its own runs that are older than other logs may be."""
    logs = sorted((STATE / "log").glob("*.log"), key=lambda path: path.name)
    oldest = 0.0 if days is None else time.time() - days * DAY_S
    for number, path in enumerate(reversed(logs)):
        with suppress(FileNotFoundError):
            if number >= MOST_LOGS or path.stat().st_mtime < oldest:
                path.unlink()
