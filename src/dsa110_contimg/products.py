"""Names, places, sidecars and atomic writes of every product.

All product names are built and parsed here, and nowhere else. A product is never changed after it
is made: a step writes under a temporary name beside the target, checks what it wrote, then renames.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from . import __version__
from .errors import DataError

__all__ = [
    "GROUP_ID",
    "NIGHT",
    "Layout",
    "Sidecar",
    "beside",
    "code_hash",
    "companion",
    "group_id",
    "group_mjd",
    "night_of",
    "owner",
    "read_sidecar",
    "remove",
    "replacing",
    "scratch",
    "sidecar_path",
    "write_text",
]

#: Regular expressions of the two identities; Snakemake constrains its wildcards with them.
GROUP_ID = r"\d{8}T\d{6}"
NIGHT = r"\d{4}-\d{2}-\d{2}"

#: Name of this machine, as it is part of the names of temporaries.
HOST = re.sub(r"\W", "_", socket.gethostname())

_MJD_EPOCH = dt.datetime(1858, 11, 17, tzinfo=dt.UTC)
SIDECAR_SCHEMA = 1


def group_id(start_mjd: float) -> str:
    """Return the identity of a group, ``YYYYMMDDTHHMMSS``.

    Parameters
    ----------
    start_mjd : float
        UTC start of the data (half an integration before the first ``time_array`` entry), MJD.
        Seconds are truncated; a millisecond is granted for the rounding of Julian dates.
    """
    moment = _MJD_EPOCH + dt.timedelta(days=start_mjd, milliseconds=1)
    return moment.strftime("%Y%m%dT%H%M%S")


def group_mjd(group: str) -> float:
    """Return the start of a group, MJD (UTC), to the second of its name."""
    try:
        moment = dt.datetime.strptime(group, "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError:
        raise DataError(f"{group!r} is no group id (YYYYMMDDTHHMMSS)") from None
    return (moment - _MJD_EPOCH) / dt.timedelta(days=1)


def night_of(group: str) -> str:
    """Return the night (UTC day, ``YYYY-MM-DD``) of a group."""
    return f"{group[:4]}-{group[4:6]}-{group[6:8]}"


@dataclass(frozen=True)
class Layout:
    """Places of all products below one results folder.

    ``nights/<night>/groups/<id>/<id>.<kind>`` for tiles, ``nights/<night>/<name>`` for nights,
    ``lightcurves/<name>`` for the science product.
    """

    results: Path

    def night(self, night: str, name: str = "") -> Path:
        """Return a night's folder or a product of it (``mosaic.fits``, ``photometry.csv``)."""
        return self.results / "nights" / night / name

    def group(self, group: str, kind: str = "", night: str = "") -> Path:
        """Return a group's folder or a product of it.

        Parameters
        ----------
        group : str
            Group id.
        kind : str
            What follows ``<id>.``: ``ms``, ``bcal``, ``cal.ms``, ``image.fits``,
            ``photometry.csv``; ``hdf5`` gives the group file, ``group_<id>.hdf5``.
        night : str
            The group's night; derived from the id when empty.
        """
        folder = self.night(night or night_of(group), "groups") / group
        if not kind:
            return folder
        prefix = "group_" if kind.partition(".")[0] == "hdf5" else ""
        return folder / f"{prefix}{group}.{kind}"

    def log(self, *parts: str) -> Path:
        """Return the log of a job: ``logs/<step>/<night>/<group>.log``."""
        return self.results.joinpath("logs", *parts[:-1], f"{parts[-1]}.log")

    def timing(self, *parts: str) -> Path:
        """Return the record of a job's time and memory."""
        return self.results.joinpath("benchmarks", *parts[:-1], f"{parts[-1]}.tsv")

    def lightcurves(self, name: str = "") -> Path:
        """Return the light-curve folder or a product in it."""
        return self.results / "lightcurves" / name


def parse_group(path: str | os.PathLike) -> str:
    """Return the group id that a product's name holds; raise `DataError` if it holds none."""
    match = re.search(rf"(?:^|group_)({GROUP_ID})(?=\.)", Path(path).name)
    if not match:
        raise DataError(f"{path}: the name holds no group id (YYYYMMDDTHHMMSS)")
    return match[1]


def sidecar_path(product: str | os.PathLike) -> Path:
    """Return ``<product>.json``."""
    product = Path(product)
    return product.with_name(product.name + ".json")


def beside(target: str | os.PathLike, kind: Literal["tmp", "old"] = "tmp") -> Path:
    """Return a hidden name beside a product: ``.<kind>-<process>-<host>-<name>``.

    It tells whose it is, so that what killed jobs leave can be told from what others work on.
    """
    target = Path(target)
    return target.with_name(f".{kind}-{os.getpid()}-{HOST}-{target.name}")


@contextmanager
def scratch(name: str, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """Give a temporary folder, named as `beside` does; in the system's place for such by default.

    It is removed when the block ends.
    """
    prefix = f"{beside(name).name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as path:
        yield Path(path)


def owner(path: str | os.PathLike) -> tuple[int, str] | None:
    """Return process and host that the name of a temporary tells; None for any other name."""
    match = re.match(r"\.(?:tmp|old)-(\d+)-(\w+)-", Path(path).name)
    return (int(match[1]), match[2]) if match else None


@contextmanager
def replacing(target: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside `target`; rename it onto the target when the block succeeds.

    Works for files and directories. When the block raises, the temporary is removed and what stood
    at the target stays. The temporary's name (see `beside`) ends with the target's suffixes, for
    tools that look at those.
    """
    target = Path(target).absolute()  # casacore reads a leading dot as "this folder"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(target)
    remove(temporary)
    try:
        yield temporary
        if not temporary.exists():
            raise DataError(f"{target}: the step ended without writing it")
        if target.is_dir() and not target.is_symlink():
            # A directory cannot be renamed over a full one: move the old aside first.
            old = beside(target, "old")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    except OSError as error:
        if error.filename is None:  # a write that fails does not tell where
            error.filename = str(target)
        raise
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file or a folder with all in it; nothing, if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(target: str | os.PathLike, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


@dataclass
class Sidecar:
    """What is to be known of a product: where from, how, with what, how good.

    Attributes
    ----------
    step : str
        Name of the step that made it.
    inputs : list of path
        Files and folders it was made from; recorded with size and modification time, and with
        SHA-256 below 1 MB.
    parameters : dict
        Options of the step.
    commands : list of list of str
        External programs, as run.
    tools : dict
        Versions beside those of the packages that `write` looks up.
    timings_s : dict
        Seconds by part of the step.
    qa : dict
        Figures of merit; numbers carry their unit in the key.
    verdict : {"pass", "warn", "fail"}
        ``fail`` keeps the product, but nothing downstream uses it.
    reasons : list of str
        Why the verdict is not ``pass``.
    """

    step: str
    inputs: list = field(default_factory=list)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    commands: list = field(default_factory=list)
    tools: dict = field(default_factory=dict)
    timings_s: dict = field(default_factory=dict)
    qa: dict = field(default_factory=dict)
    verdict: str = "pass"
    reasons: list = field(default_factory=list)

    def warn(self, reason: str) -> None:
        """Lower the verdict to ``warn`` (a ``fail`` stays) and note why."""
        self.verdict = "fail" if self.verdict == "fail" else "warn"
        self.reasons.append(reason)

    def fail(self, reason: str) -> None:
        """Set the verdict to ``fail`` and note why."""
        self.verdict = "fail"
        self.reasons.append(reason)

    def write(self, product: str | os.PathLike, packages: tuple[str, ...] = ()) -> Path:
        """Write ``<product>.json`` and return its path.

        Parameters
        ----------
        product : path
            The product it describes.
        packages : tuple of str
            Python distributions whose versions are recorded.
        """
        product = Path(product)
        content = {
            "schema": SIDECAR_SCHEMA,
            "product": product.name,
            "step": self.step,
            "created_utc": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "verdict": self.verdict,
            "reasons": self.reasons,
            "qa": self.qa,
            "inputs": [describe_input(p) for p in self.inputs],
            "parameters": dict(self.parameters),
            "tools": {"dsa110-contimg": __version__}
            | {name: metadata.version(name) for name in packages}
            | self.tools,
            "commands": self.commands,
            "timings_s": {k: round(v, 3) for k, v in self.timings_s.items()},
        }
        path = sidecar_path(product)
        write_text(path, json.dumps(content, indent=1, default=_jsonable) + "\n")
        return path


def _jsonable(value: Any) -> Any:
    """Turn paths, NumPy scalars and arrays into what JSON knows."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into a sidecar")


def describe_input(path: str | os.PathLike) -> dict:
    """Return path, size in bytes and modification time of an input; SHA-256 below 1 MB."""
    path = Path(path)
    stat = path.stat()
    entry: dict[str, Any] = {
        "path": str(path),
        "mtime_utc": dt.datetime.fromtimestamp(stat.st_mtime, dt.UTC).isoformat(),
    }
    if path.is_dir():
        entry["size_bytes"] = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    else:
        entry["size_bytes"] = stat.st_size
        if stat.st_size < 1_000_000:
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return entry


def read_sidecar(product: str | os.PathLike) -> dict:
    """Return the sidecar of a product as a dict.

    Raises
    ------
    DataError
        If it is absent or not JSON.
    """
    path = sidecar_path(product)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: sidecar is missing; remake {Path(product).name}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); remake {Path(product).name}") from None


def code_hash(*names: str) -> str:
    """Return a short hash of some of this package's modules (by name) and files (``data/...``).

    Rules carry it in ``params``, so that a change of a step's own code remakes its products and
    nothing else.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        path = name if name.startswith("data/") else f"{name}.py"
        digest.update((Path(__file__).parent / path).read_bytes())
    return digest.hexdigest()[:12]


def companion(image: str | os.PathLike, kind: str) -> Path:
    """Return the name of a map that belongs to an image.

    ``<id>.image.fits`` and ``pb`` give ``<id>.pb.fits``; ``mosaic.fits`` and ``rms`` give
    ``mosaic.rms.fits``.
    """
    image = Path(image)
    stem = image.name.removesuffix(".fits").removesuffix(".image")
    return image.with_name(f"{stem}.{kind}.fits")
