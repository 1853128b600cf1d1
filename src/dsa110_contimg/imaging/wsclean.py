"""WSClean 3.1: what to run, what it leaves, and how to see that it goes wrong."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..core.errors import ConfigError
from ..core.tools import program_version
from .presets import Recipe

__all__ = ["ENVIRONMENT", "command", "outputs", "predict_command", "version", "watch"]

#: OpenBLAS threads fight with WSClean's own.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


def command(
    recipe: Recipe,
    ms: str | Path,
    prefix: str | Path,
    *,
    column: str = "DATA",
    threads: int = 1,
    memory_gb: float | None = None,
    mask: str | Path | None = None,
) -> list[str]:
    """Return WSClean's command line.

    Visibilities are reordered into temporary files beside `prefix`, and the model is not written
    back: the Measurement Set stays as it is.

    Parameters
    ----------
    recipe : Recipe
        Imaging parameters.
    ms : path
        Measurement Set.
    prefix : path
        WSClean's ``-name``.
    column : str
        Data column.
    threads : int
        Number of threads.
    memory_gb : float, optional
        Memory that WSClean plans with, GB.
    mask : path, optional
        FITS image; cleaning is restricted to where it is not zero.

    Raises
    ------
    ConfigError
        If an override is not an option's name.
    """
    size = str(recipe.size_px)
    values: dict[str, list[str]] = {
        "j": [str(threads)],
        "name": [str(prefix)],
        "temp-dir": [str(Path(prefix).parent)],
        "reorder": [],
        "no-update-model-required": [],
        "no-dirty": [],
        "data-column": [column],
        "pol": ["I"],
        "use-wgridder": [],
        "size": [size, size],
        "scale": [f"{recipe.cell_arcsec:g}asec"],
        "weight": ["briggs", f"{recipe.robust:g}"],
        "minuv-l": [f"{recipe.uvmin_lambda:g}"],
    }
    if memory_gb is not None:
        values["abs-mem"] = [f"{memory_gb:g}"]
    if recipe.niter > 0:
        values |= {
            "niter": [str(recipe.niter)],
            "nmiter": [str(recipe.max_major)],
            "gain": [f"{recipe.gain:g}"],
            "mgain": [f"{recipe.mgain:g}"],
            "auto-mask": [f"{recipe.auto_mask_sigma:g}"],
            "auto-threshold": [f"{recipe.auto_threshold_sigma:g}"],
        }
        if mask is not None:
            values["fits-mask"] = [str(mask)]
        if recipe.multiscale_px:
            values["multiscale"] = []
            values["multiscale-scales"] = [",".join(map(str, recipe.multiscale_px))]
    else:
        values["make-psf"] = []
    if recipe.channels_out > 1:
        values |= {
            "channels-out": [str(recipe.channels_out)],
            "join-channels": [],
            "fit-spectral-pol": [str(recipe.spectral_terms)],
        }
    for name, value in recipe.extra:
        name = name.lstrip("-")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise ConfigError(f"imaging.wsclean: {name!r} is no WSClean option")
        if value == "off":
            values.pop(name, None)
        else:
            values[name] = value.split()
    line = ["wsclean"]
    for name, arguments in values.items():
        line += ["-" + name, *arguments]
    return [*line, str(ms)]


def predict_command(recipe: Recipe, ms: Path, prefix: Path, threads: int = 1) -> list[str]:
    """Return the command line that writes the visibilities of an image into ``MODEL_DATA``.

    Parameters
    ----------
    recipe : Recipe
        What the image was made with.
    ms : Path
        Measurement Set; it is changed.
    prefix : Path
        WSClean's ``-name`` of the image.
    threads : int
        Number of threads.
    """
    line = ["wsclean", "-predict", "-j", str(threads), "-use-wgridder", "-pol", "I"]
    if recipe.channels_out > 1:
        line += ["-channels-out", str(recipe.channels_out)]
    return [*line, "-temp-dir", str(prefix.parent), "-name", str(prefix), str(ms)]


def bare(line: Sequence[str], folder: Path) -> list[str]:
    """Return a command line that is run in a folder, with bare names for what lies there.

    The library that reads and writes its images takes brackets and other letters before a file's
    name for an instruction.
    """
    place = f"{folder}{os.sep}"
    return ["." if word == str(folder) else word.removeprefix(place) for word in line]


def outputs(recipe: Recipe, prefix: str | Path) -> dict[str, Path]:
    """Return the files that hold WSClean's full-band products: residual, model, psf.

    A dirty image is its own residual.
    """
    infix = "-MFS" if recipe.channels_out > 1 else ""
    if recipe.niter == 0:
        names = {"residual": "image", "psf": "psf"}
    else:
        names = {kind: kind for kind in ("residual", "model", "psf")}
    return {kind: Path(f"{prefix}{infix}-{name}.fits") for kind, name in names.items()}


_UNITS = {"": 1.0, "K": 1e3, "m": 1e-3, "µ": 1e-6, "u": 1e-6, "n": 1e-9, "p": 1e-12}
#: What comes before the first major cycle of each image.
_FIRST = " == Deconvolving (1)"
_PEAK = re.compile(r"^Initial peak: (\S+) ?(\S*?)Jy")


def watch(growth: float = 2.0) -> Callable[[str], str | None]:
    """Return a watcher of WSClean's output that recognises a diverging deconvolution.

    Each major cycle states the residual's peak when it begins. In a converging run it falls; it is
    taken to diverge when the peak is not finite or exceeds `growth` times the lowest one so far.
    """
    lowest = math.inf

    def check(line: str) -> str | None:
        nonlocal lowest
        if line.startswith(_FIRST):
            lowest = math.inf  # another image
        match = _PEAK.match(line)
        if not match:
            return None
        try:
            peak = abs(float(match[1])) * _UNITS.get(match[2], 1.0)
        except ValueError:
            peak = math.nan
        if not math.isfinite(peak):
            return "the deconvolution diverges (the residual's peak is not finite)"
        if peak > growth * lowest:
            return f"the deconvolution diverges (peak {peak:.4g} Jy after {lowest:.4g} Jy)"
        lowest = min(lowest, peak)
        return None

    return check


def version() -> str:
    """Return WSClean's version, e.g. ``3.1.0``."""
    return program_version("wsclean")
