"""WSClean 3.1: what to run, and how to see that it goes wrong.

The command is built by a pure function of a `Recipe`; nothing here needs WSClean to be tested.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .config import ImagingOptions
from .errors import ConfigError
from .external import ToolResult, run_tool

__all__ = [
    "Recipe",
    "command",
    "divergence_watch",
    "outputs",
    "recipe",
    "run",
    "safer",
    "version",
]


@dataclass(frozen=True)
class Recipe:
    """Imaging parameters with nothing left open: a preset with the user's values over it.

    Attributes
    ----------
    size_px, cell_arcsec
        Image geometry.
    robust
        Briggs robustness.
    niter
        Most clean components.
    mgain, gain
        Share of the peak removed by a major and by a minor cycle.
    max_major
        Most major cycles.
    auto_mask_sigma, auto_threshold_sigma
        Depth of cleaning, blind and within the mask.
    spectral_terms
        Terms of the spectral polynomial; with more than one the band is imaged in
        ``channels_out`` parts that are cleaned together.
    channels_out
        Parts of the band.
    multiscale_px
        Scales of multiscale clean, pixels; none means point components.
    uvmin_lambda
        Shortest baseline.
    extra : tuple of (str, str)
        WSClean options put over all others.
    """

    size_px: int
    cell_arcsec: float
    robust: float
    niter: int
    mgain: float
    gain: float
    max_major: int
    auto_mask_sigma: float
    auto_threshold_sigma: float
    spectral_terms: int
    channels_out: int
    multiscale_px: tuple[int, ...] = ()
    uvmin_lambda: float = 1000.0
    extra: tuple[tuple[str, str], ...] = ()


#: The presets cover the same four degrees.
PRESETS = {
    "quick": Recipe(
        size_px=1800,
        cell_arcsec=8.0,
        robust=0.5,
        niter=1000,
        mgain=0.9,
        gain=0.15,
        max_major=3,
        auto_mask_sigma=6.0,
        auto_threshold_sigma=2.0,
        spectral_terms=1,
        channels_out=1,
    ),
    "standard": Recipe(
        size_px=2400,
        cell_arcsec=6.0,
        robust=0.5,
        niter=10000,
        mgain=0.8,
        gain=0.1,
        max_major=8,
        auto_mask_sigma=5.0,
        auto_threshold_sigma=1.0,
        spectral_terms=1,
        channels_out=1,
    ),
    "deep": Recipe(
        size_px=4800,
        cell_arcsec=3.0,
        robust=0.0,
        niter=50000,
        mgain=0.8,
        gain=0.1,
        max_major=15,
        auto_mask_sigma=4.0,
        auto_threshold_sigma=0.5,
        spectral_terms=2,
        channels_out=4,
    ),
}


def recipe(options: ImagingOptions) -> Recipe:
    """Return the preset with the values over it that the options give."""
    given = {
        name: value
        for name in PRESETS["standard"].__dataclass_fields__
        if (value := getattr(options, name, None)) is not None
    }
    resolved = replace(PRESETS[options.preset], **given, extra=tuple(options.wsclean.items()))
    if resolved.spectral_terms == 1:
        return replace(resolved, channels_out=1)
    return replace(resolved, channels_out=max(resolved.channels_out, 2 * resolved.spectral_terms))


def safer(recipe: Recipe) -> Recipe:
    """Return the recipe of the second attempt: smaller steps, less depth, one spectral term."""
    return replace(
        recipe,
        mgain=min(recipe.mgain, 0.6),
        gain=min(recipe.gain, 0.05),
        niter=min(recipe.niter, 1000),
        auto_mask_sigma=max(recipe.auto_mask_sigma, 7.0),
        auto_threshold_sigma=max(recipe.auto_threshold_sigma, 3.0),
        spectral_terms=1,
        channels_out=1,
        multiscale_px=(),
    )


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


def outputs(recipe: Recipe, prefix: str | Path) -> dict[str, Path]:
    """Return the files that hold WSClean's full-band products: image, residual, model, psf."""
    infix = "-MFS" if recipe.channels_out > 1 else ""
    kinds = ("image", "residual", "model", "psf") if recipe.niter > 0 else ("image", "psf")
    return {kind: Path(f"{prefix}{infix}-{kind}.fits") for kind in kinds}


_UNITS = {"": 1.0, "K": 1e3, "m": 1e-3, "µ": 1e-6, "u": 1e-6, "n": 1e-9, "p": 1e-12}
_PEAK = re.compile(r"^Initial peak: (\S+) ?(\S*?)Jy")


def divergence_watch(growth: float = 2.0) -> Callable[[str], str | None]:
    """Return a watcher of WSClean's output that recognises a diverging deconvolution.

    Each major cycle states the residual's peak when it begins. In a converging run it falls; it is
    taken to diverge when the peak is not finite or exceeds `growth` times the lowest one so far.
    """
    lowest = math.inf

    def watch(line: str) -> str | None:
        nonlocal lowest
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

    return watch


def run(line: list[str], timeout_s: float) -> ToolResult:
    """Run a command that `command` built, watched and limited in time.

    Raises
    ------
    ToolStopped
        If it diverges or exceeds the limit.
    ToolError
        If WSClean is absent or fails.
    """
    # OpenBLAS threads fight with WSClean's own.
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    return run_tool(line, timeout_s=timeout_s, env=environment, watch=divergence_watch())


def version(timeout_s: float = 30) -> str:
    """Return WSClean's version, e.g. ``3.1.0``."""
    tail = run_tool(["wsclean", "--version"], timeout_s=timeout_s).tail
    match = re.search(r"WSClean version (\S+)", "\n".join(tail))
    return match[1] if match else "unknown"
