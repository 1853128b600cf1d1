"""Sidecars: what is to be known of a product, beside it as ``<product>.json``.

A sidecar vouches for files: it holds the checksums of all that its step made with the product, and
is written when all of that is on the disk. It ends with a checksum of itself.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import __version__
from .checksums import describe, of_file
from .errors import DataError
from .figures import FIGURES, Figures, Model
from .files import write_text
from .provenance import call, provenance
from .times import utc_now
from .tools import versions

__all__ = [
    "SIDECAR_SCHEMA",
    "Input",
    "Output",
    "Provenance",
    "Record",
    "Sidecar",
    "is_sealed",
    "parse_sidecar",
    "read_sidecar",
    "sealed",
    "sidecar_path",
    "vouch",
]

#: Version of what a sidecar holds. Raised when a name or its meaning changes. 1 had the names of 2;
#: 3 added `provenance`, `outputs` and the checksum of the sidecar itself.
SIDECAR_SCHEMA = 3

F = TypeVar("F", bound=Figures)
Verdict = Literal["pass", "warn", "fail"]


def sidecar_path(product: str | os.PathLike) -> Path:
    """Return ``<product>.json``."""
    product = Path(product)
    return product.with_name(product.name + ".json")


class Input(Model):
    """A file or folder that a product was made from."""

    path: str
    """As the step was given it."""
    mtime_utc: str | None = None
    """Modification time when it was read."""
    size_bytes: int | None = None
    """Size when it was read, B."""
    sha256: str | None = None
    """Checksum, of files below 1 MB."""


class Output(Model):
    """A file or folder that a step made, with its product or as it."""

    path: str
    """Relative to the sidecar."""
    size_bytes: int
    """Size, B; of a folder, of all files in it."""
    sha256: str
    """Checksum; of a folder, of the list of names, sizes and checksums of its files."""


class Provenance(Model):
    """What made a product."""

    release: str = ""
    """Version of this package."""
    code: str | None = None
    """Hash of the code that decides the step's numbers."""
    commit: str | None = None
    """Commit of the checkout, with ``-dirty`` if it had other changes; null without one."""
    run: str | None = None
    """Id of the run (``runs/<id>.json``); null of a step that was called by hand."""
    configuration: str | None = None
    """Checksum of the whole configuration (``configurations/<checksum>.json``)."""
    argv: list[str] | None = None
    """Name of the step and its arguments; paths are relative to the folder above the results."""


class Record(BaseModel, Generic[F]):
    """What a sidecar holds."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, defer_build=True)

    version: int = Field(1, alias="schema")
    """Version of the schema."""
    product: str = ""
    """Name of the product."""
    step: str = ""
    """Step that made it."""
    created_utc: str | None = None
    """When it was made."""
    verdict: Verdict
    """``fail`` keeps the product, but nothing downstream uses it."""
    reasons: list[str] = []
    """Why the verdict is not ``pass``."""
    figures: F = Field(alias="qa")
    """Figures of merit."""
    inputs: list[Input] = []
    """What it was made from."""
    outputs: list[Output] = []
    """What the step made, the product among it."""
    provenance: Provenance = Provenance()
    """What made it."""
    parameters: dict[str, Any] = {}
    """All options of the step, with defaults, and what it made of them."""
    tools: dict[str, str] = {}
    """Versions of what made it."""
    commands: list[list[str]] = []
    """External programs, as run."""
    timings_s: dict[str, float] = {}
    """Seconds by part of the step."""
    sha256: str | None = None
    """Checksum of all that stands before it in the file."""


@dataclass
class Sidecar(Generic[F]):
    """What is to be known of a product: where from, how, with what, how good.

    Attributes
    ----------
    step : str
        Name of the step that made it.
    inputs : list of path
        Files and folders it was made from; recorded with size and modification time, and with
        SHA-256 below 1 MB.
    parameters : dict
        Options of the step, and what it made of them; all options of a step that was called as one
        are added.
    commands : list of list of str
        External programs, as run.
    tools : dict
        Versions of programs, beside those of the packages that the step rests on.
    timings_s : dict
        Seconds by part of the step.
    figures : Figures
        Figures of merit, of the model that `FIGURES` has for the step; set before it is written.
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
    figures: F = None  # type: ignore[assignment]
    verdict: Verdict = "pass"
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

    def write(
        self,
        product: str | os.PathLike,
        outputs: Sequence[str | os.PathLike] = (),
        *,
        stays: bool = True,
    ) -> Path:
        """Write ``<product>.json`` and return its path; the product stands in its place already.

        Parameters
        ----------
        product : path
            The product it describes.
        outputs : sequence of path
            What else the step made, in the same folder: the sidecar vouches for it, too.
        stays : bool
            Whether the product stays when all that is made from it stands; otherwise nobody will
            ask for its checksum.

        Raises
        ------
        TypeError
            If the figures are not those of the step.
        """
        product = Path(product)
        if type(self.figures) is not FIGURES.get(self.step, Figures):
            raise TypeError(f"{self.step}: {type(self.figures).__name__} are not its figures")
        made = [*([product] if stays and product.exists() else []), *map(Path, outputs)]
        content = {
            "schema": SIDECAR_SCHEMA,
            "product": product.name,
            "step": self.step,
            "created_utc": utc_now(),
            "verdict": self.verdict,
            "reasons": self.reasons,
            "qa": self.figures.plain(),
            "inputs": [describe_input(p) for p in self.inputs],
            "outputs": describe(made, product.parent),
            "provenance": provenance(self.step),
            "parameters": dict(call().options) | dict(self.parameters),
            "tools": {"dsa110-contimg": __version__} | versions(self.step) | self.tools,
            "commands": self.commands,
            "timings_s": {k: round(v, 3) for k, v in self.timings_s.items()},
        }
        path = sidecar_path(product)
        write_text(path, sealed(content))
        return path


def vouch(step: str, product: Path, inputs: Sequence[Path], outputs: Sequence[Path] = ()) -> None:
    """Write the sidecar of a product that has no figures of merit: a page, a verdict, an index.

    Of the inputs, those that there are: a page shows what there is.
    """
    there = [path for path in inputs if path.exists()]
    Sidecar(step, inputs=there, figures=Figures()).write(product, outputs)


_SEAL = ',\n "sha256": "'


def sealed(content: Mapping[str, Any]) -> str:
    """Return a sidecar's text, which ends with the checksum of all before it."""
    text = json.dumps(content, indent=1, default=_jsonable).removesuffix("\n}")
    return f'{text}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def is_sealed(text: str) -> bool | None:
    """Tell whether a sidecar is as it was written; None for one of before schema 3, without sum."""
    before, seal, after = text.rpartition(_SEAL)
    if not seal:
        return None
    return after == f'{hashlib.sha256(before.encode()).hexdigest()}"\n}}\n'


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
            entry["sha256"] = of_file(path)
    return entry


def parse_sidecar(content: Any, kind: type[F]) -> Record[F]:
    """Return the record in the content of a sidecar; names that are not known are passed over.

    Parameters
    ----------
    content : mapping
        As JSON has it.
    kind : type
        Figures that it must have; `Figures` for those of any step.

    Raises
    ------
    ValueError
        If it is no valid sidecar.
    """
    step = content.get("step", "") if isinstance(content, Mapping) else ""
    figures = FIGURES.get(step, Figures)
    if not issubclass(figures, kind):
        raise ValueError(f"it is of the step {step!r}")
    record: Record[F] = Record[figures].model_validate(  # type: ignore[valid-type]
        {"qa": {}} | content, extra="ignore"
    )
    return record


@overload
def read_sidecar(product: str | os.PathLike) -> Record[Figures]: ...
@overload
def read_sidecar(product: str | os.PathLike, kind: type[F]) -> Record[F]: ...
def read_sidecar(product: str | os.PathLike, kind: type[Figures] = Figures) -> Record[Any]:
    """Return the sidecar of a product.

    Parameters
    ----------
    product : path
        The product it describes.
    kind : type, optional
        Figures that it must have, as `ImageFigures`; otherwise those of any step will do.

    Raises
    ------
    DataError
        If it is absent, not JSON, or not a sidecar with such figures.
    """
    path = sidecar_path(product)
    remedy = f"remake {Path(product).name}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: sidecar is missing; {remedy}") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); {remedy}") from None
    try:
        return parse_sidecar(content, kind)
    except ValidationError as error:
        first = error.errors()[0]
        trouble = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (TypeError, ValueError) as error:
        trouble = str(error)
    raise DataError(f"{path}: not a valid sidecar ({trouble}); {remedy}")
