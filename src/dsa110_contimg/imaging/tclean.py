"""CASA's tclean as the imager: the same recipe, the same products.

CASA does not share a process with python-casacore, so this module is also a program: the imaging
step runs this module as a program and reads the FITS files that it leaves.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.programs import program, run_as_program
from .presets import Recipe

log = logging.getLogger(__name__)

__all__ = ["ENVIRONMENT", "command", "outputs", "parameters", "version", "watch"]

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
_KINDS = ("residual", "model", "psf")
#: tclean's stop codes for a residual that grows: above the last major cycle's, above the least.
_DIVERGED = (5, 6)


def parameters(recipe: Recipe, ms: str, name: str, column: str, mask: str = "") -> dict[str, Any]:
    """Return tclean's parameters for a recipe.

    There is no counterpart to WSClean's second stage within an automatic mask; cleaning stops at
    ``auto_mask_sigma``, or with a mask at ``auto_threshold_sigma``.
    """
    terms = recipe.spectral_terms
    depth = recipe.auto_threshold_sigma if mask else recipe.auto_mask_sigma
    return {
        "vis": ms,
        "imagename": name,
        "datacolumn": {"DATA": "data", "CORRECTED_DATA": "corrected"}[column],
        "specmode": "mfs",
        "stokes": "I",
        "imsize": [recipe.size_px, recipe.size_px],
        "cell": f"{recipe.cell_arcsec}arcsec",
        "gridder": "wproject",
        "wprojplanes": 64,
        "pblimit": -1e-4,  # negative: nothing is masked
        "weighting": "briggs",
        "robust": recipe.robust,
        "uvrange": f">{recipe.uvmin_lambda}lambda",
        "deconvolver": "mtmfs" if terms > 1 else "multiscale" if recipe.multiscale_px else "hogbom",
        "nterms": terms,
        "scales": list(recipe.multiscale_px),
        "niter": recipe.niter,
        "gain": recipe.gain,
        "nsigma": depth,
        "cyclefactor": 1.0,
        "minpsffraction": 1 - recipe.mgain,
        "nmajor": recipe.max_major,
        "usemask": "user",
        "mask": mask,
        "restoration": False,
        "savemodel": "none",
        "interactive": False,
        "parallel": False,
    }


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
    """Return the command line that runs tclean; arguments as for `wsclean.command`.

    tclean's gridder has one thread and plans its own memory: `threads` and `memory_gb` do nothing.
    """
    return program(
        "dsa110_contimg.imaging.tclean",
        ms=ms,
        prefix=prefix,
        recipe=asdict(recipe),
        column=column,
        mask=mask,
    )


def outputs(recipe: Recipe, prefix: str | Path) -> dict[str, Path]:
    """Return the files that `main` leaves: residual, model, psf."""
    return {kind: Path(f"{prefix}-{kind}.fits") for kind in _KINDS}


def watch() -> Callable[[str], str | None]:
    """Return a watcher that recognises what `main` prints of a diverged run."""

    def check(line: str) -> str | None:
        match = re.match(r"tclean stop code (\d+)", line)
        if match and int(match[1]) in _DIVERGED:
            return "the deconvolution diverges (tclean's residual grew threefold)"
        return None

    return check


def version() -> str:
    """Return the version of casatasks."""
    return importlib.metadata.version("casatasks")


def _main(ms: str, prefix: str, recipe: dict, column: str, mask: str | None) -> None:
    """Run tclean and export what it made."""
    from ..core.casa import casa_session

    wanted = Recipe(**recipe)
    suffix = ".tt0" if wanted.spectral_terms > 1 else ""
    with casa_session() as casa:
        region = ""
        if mask:
            region = f"{prefix}.mask"
            casa.importfits(mask, region, overwrite=True)
        result = casa.tclean(**parameters(wanted, ms, prefix, column, region))
        for kind in _KINDS:
            image = f"{prefix}.{kind}{suffix}"
            if kind != "model" or Path(image).exists():
                casa.exportfits(image, f"{prefix}-{kind}.fits", overwrite=True)
    log.info("tclean stop code %s", result.get("stopcode", 0))


if __name__ == "__main__":
    run_as_program(_main)
