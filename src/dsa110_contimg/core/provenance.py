"""What made a product: release, code, commit, run, configuration, and how its step was called.

A run tells the jobs that it starts what they cannot know (`announce`); a step that nobody announced
finds out what it can.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from .code import step_hash
from .errors import ConfigError
from .files import write_text
from .options import Config
from .places import PACKAGE

__all__ = [
    "COMMIT",
    "CONFIGURATION",
    "RUN",
    "Call",
    "announce",
    "call",
    "calling",
    "commit",
    "keep_configuration",
    "name_configuration",
    "provenance",
]

#: Environment variables by which a run tells its jobs of itself.
COMMIT, RUN, CONFIGURATION = "CONTIMG_COMMIT", "CONTIMG_RUN", "CONTIMG_CONFIGURATION"


@dataclass(frozen=True)
class Call:
    """How a step was called.

    Attributes
    ----------
    argv : list of str, optional
        Its name and arguments; None for a function that no step called.
    options : mapping
        All options of the step, those that were not given with their defaults.
    """

    argv: list[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


_call = Call()


@contextmanager
def calling(argv: Sequence[str], options: Mapping[str, Any]) -> Iterator[None]:
    """Let what is written within the block tell that a step was called so."""
    global _call
    before, _call = _call, Call(list(argv), options)
    try:
        yield
    finally:
        _call = before


def call() -> Call:
    """Return how the step at work was called."""
    return _call


def provenance(step: str) -> dict[str, Any]:
    """Return what makes a product of a step now, as its sidecar has it."""
    try:
        code = step_hash(step)
    except (ConfigError, FileNotFoundError):  # no program of the workflow: `contimg catalog`
        code = None
    return {
        "release": __version__,
        "code": code,
        "commit": commit(),
        "run": os.environ.get(RUN),
        "configuration": os.environ.get(CONFIGURATION),
        "argv": _call.argv,
    }


# --- configuration --------------------------------------------------------------------------------


def keep_configuration(config: Config) -> str:
    """Keep a configuration in ``results/configurations/<SHA-256>.json``; return the checksum.

    Sidecars name it by that; it is written once, unless it is damaged, and never removed. Whom
    troubles are told makes no product, and may hold secrets: section ``alerts`` is left out.
    """
    text = config.model_dump_json(exclude={"alerts"}, indent=1) + "\n"
    name = hashlib.sha256(text.encode()).hexdigest()
    path = config.results / "configurations" / f"{name}.json"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    return name


def name_configuration(config: Config) -> None:
    """Tell the jobs of a run that nobody announced, Snakemake's own, the configuration at least."""
    if CONFIGURATION not in os.environ:
        os.environ[CONFIGURATION] = keep_configuration(config)


@contextmanager
def announce(config: Config, run: str | None = None) -> Iterator[str]:
    """Tell the jobs that start within the block of this run; give the configuration's checksum."""
    kept = keep_configuration(config)
    told = {RUN: run, CONFIGURATION: kept, COMMIT: commit()}
    before = {name: os.environ.get(name) for name in told}
    _set(told)
    try:
        yield kept
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


# --- commit ---------------------------------------------------------------------------------------


def commit() -> str | None:
    """Return the commit of the checkout this code runs from; None for an installed package.

    A run has told it to its jobs. Otherwise git is asked, which tells changes that were not
    committed, too (``-dirty``); where there is none, or it will not look into a folder of another
    user, its files are read.
    """
    if told := os.environ.get(COMMIT):
        return told
    top = PACKAGE.parents[1]
    if not (top / ".git").exists():
        return None
    return _described(top) or _head(top)


def _described(top: Path) -> str | None:
    command = ["git", "-c", f"safe.directory={top}", "-C", str(top)]
    command += ["describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _head(top: Path) -> str | None:
    """Return the commit that the files of git tell; None if they do not."""
    try:
        folder = top / ".git"
        if folder.is_file():  # of a linked working tree
            folder = top / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head[:12] or None
        shared = folder / "commondir"
        if shared.is_file():
            folder = folder / shared.read_text(encoding="utf-8").strip()
        name = head.removeprefix("ref:").strip()
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").strip()[:12]
        packed = (folder / "packed-refs").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line[:12] for line in packed if line.endswith(f" {name}")), None)
