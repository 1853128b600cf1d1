"""The packages and programs whose versions decide numbers, by step.

A sidecar names those that made its product; rules carry them in ``params``, so that another version
remakes what rests on it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from importlib import metadata

from .options import Config

__all__ = ["PACKAGES", "present", "program_version", "versions"]

#: Step -> Python distributions that its numbers rest on. What draws and writes pages is none.
PACKAGES: dict[str, tuple[str, ...]] = {
    "group": ("h5py", "astropy", "numpy"),
    "convert": ("pyuvdata", "python-casacore", "astropy", "h5py", "numpy"),
    "calibrate": ("casatasks", "casatools", "casadata", "python-casacore", "astropy", "numpy"),
    "apply": ("python-casacore", "numpy", "casatasks"),
    "image": ("python-casacore", "astropy", "numpy", "scipy", "photutils"),
    "photometry": ("numpy", "scipy", "astropy", "pandas"),
    "mosaic": ("numpy", "scipy", "astropy", "reproject"),
    "joint": ("python-casacore", "astropy", "numpy", "scipy"),
    "blind": ("numpy", "scipy", "astropy", "photutils", "pandas"),
    "lightcurves": ("numpy", "pandas", "pyarrow", "scipy"),
    "catalog": ("pandas", "pyarrow"),
    "casa": ("casatasks", "casatools", "casadata"),
}
#: Environment variable in which versions of programs go to the jobs of a run: asking costs.
_KNOWN = "CONTIMG_PROGRAM_VERSIONS"


def versions(step: str) -> dict[str, str]:
    """Return the versions of the packages that a step's numbers rest on, of those that are here."""
    found = {name: _installed(name) for name in PACKAGES.get(step, ())}
    return {name: version for name, version in found.items() if version is not None}


@functools.cache
def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # jobs may have an environment of their own
        return None


def present(step: str, config: Config) -> dict[str, str]:
    """Return what `versions` does, and the program that the configuration has the step call."""
    engines = {"convert": config.flagging.engine, "image": config.imaging.engine}
    engine = engines.get(step, "wsclean" if step == "joint" else "")
    if engine in ("wsclean", "aoflagger"):
        return versions(step) | {engine: program_version(engine)}
    if engine in ("casa", "tclean"):
        return versions(step) | versions("casa")
    return versions(step)


def program_version(name: str) -> str:
    """Return what a program says of its version; ``absent`` if it is not installed.

    The answer is kept for as long as the program's file is the same, and handed to what this
    process starts.
    """
    path = shutil.which(name)
    if path is None:
        return "absent"
    stat = os.stat(path)
    key = f"{os.path.realpath(path)} {stat.st_mtime_ns} {stat.st_size}"
    known = json.loads(os.environ.get(_KNOWN, "{}"))
    if known.get(name, ("",))[0] != key:
        known[name] = (key, _ask(path))
        os.environ[_KNOWN] = json.dumps(known)
    return str(known[name][1])


def _ask(path: str) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    match = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
    return match[0] if match else "unknown"
