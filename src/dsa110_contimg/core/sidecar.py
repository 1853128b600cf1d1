"""Sidecars: what is to be known of a product, beside it as ``<product>.json``."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from .errors import DataError
from .files import write_text
from .times import utc_now

__all__ = ["Sidecar", "read_sidecar", "sidecar_path"]

SIDECAR_SCHEMA = 1


def sidecar_path(product: str | os.PathLike) -> Path:
    """Return ``<product>.json``."""
    product = Path(product)
    return product.with_name(product.name + ".json")


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

    @property
    def summary(self) -> str:
        """The verdict and its reasons, in one line."""
        return "; ".join([self.verdict, *self.reasons])

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
            "created_utc": utc_now(),
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
