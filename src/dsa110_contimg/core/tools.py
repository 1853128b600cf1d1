"""The packages and programs whose versions decide numbers, by step.

A sidecar names those that made its product; rules carry them in ``params``, so that another version
remakes what rests on it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata

__all__ = ["PACKAGES", "program_version", "programs_of", "versions"]

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


def versions(step: str, programs: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions that are here of what a step's numbers rest on, by name.

    Parameters
    ----------
    step : str
        Name of the step.
    programs : sequence of str
        External programs that it calls, see `programs_of`.
    """
    found = {}
    for name in PACKAGES.get(step, ()):
        with suppress(metadata.PackageNotFoundError):  # what is not installed has no version
            found[name] = metadata.version(name)
    return found | {name: program_version(name) for name in programs}


def programs_of(step: str, engines: Sequence[str]) -> list[str]:
    """Return the external programs that a step calls, given the engines of the configuration."""
    uses = {"convert": "aoflagger", "image": "wsclean", "joint": "wsclean"}
    program = uses.get(step)
    return [program] if program and (program in engines or step == "joint") else []


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
