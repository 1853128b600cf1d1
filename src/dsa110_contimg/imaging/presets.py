"""Imaging recipes: presets with the user's values over them, whichever imager runs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ..core.errors import ConfigError
from ..core.options import ImagingOptions

__all__ = ["PRESETS", "Recipe", "optional_products", "resolve", "safer"]


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
        Share of the peak removed by a major and by a minor cycle; with a share of 1 there are no
        major cycles: cleaning never returns to the visibilities.
    max_major
        Most major cycles, or rounds of cleaning: the first is blind, the others go deeper within
        the mask.
    auto_mask_sigma, auto_threshold_sigma
        Depth of cleaning, blind and within the mask.
    spectral_terms
        Terms of the spectral polynomial; with more than one the band is imaged in
        ``channels_out`` parts that are cleaned together.
    channels_out
        Parts of the band.
    multiscale_px
        Scales of multiscale clean, pixels; none means point components.
    seed_jy, seed_most
        Catalogue sources at least this bright (flux times beam, Jy), and no more than so many, are
        subtracted before cleaning and restored afterwards; 0 of them: none.
    selfcal
        Self-calibrate where that makes the image better.
    mask_radius_arcsec
        Cleaning is restricted to circles of this radius around catalogue sources; 0: it is not.
    uvmin_lambda
        Shortest baseline.
    extra : tuple of (str, str)
        WSClean options put over all others; other imagers pass them over.
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
    seed_jy: float
    seed_most: int
    selfcal: bool = False
    mask_radius_arcsec: float = 0.0
    multiscale_px: tuple[int, ...] = ()
    uvmin_lambda: float = 1000.0
    extra: tuple[tuple[str, str], ...] = ()


#: The presets cover the same four degrees. Major cycles cost most: with the brightest sources taken
#: out beforehand, one may remove 95 % of a peak, with the same fluxes (to 0.1 %) and noise.
PRESETS = {
    "quick": Recipe(
        size_px=2400,
        cell_arcsec=6.0,
        robust=0.5,
        niter=3000,
        mgain=1.0,
        gain=0.1,
        max_major=2,
        auto_mask_sigma=6.0,
        auto_threshold_sigma=2.0,
        spectral_terms=1,
        channels_out=1,
        seed_jy=0.05,
        seed_most=30,
        mask_radius_arcsec=60.0,
        extra=(("wgridder-accuracy", "1e-3"),),
    ),
    "standard": Recipe(
        size_px=2400,
        cell_arcsec=6.0,
        robust=0.5,
        niter=10000,
        mgain=0.95,
        gain=0.1,
        max_major=8,
        auto_mask_sigma=5.0,
        auto_threshold_sigma=1.0,
        spectral_terms=1,
        channels_out=1,
        seed_jy=0.05,
        seed_most=30,
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
        seed_jy=0.01,
        seed_most=100,
        selfcal=True,
    ),
}


def optional_products(options: ImagingOptions) -> tuple[str, ...]:
    """Return what follows ``<id>.`` in the names of the optional products that are asked for.

    Raises
    ------
    ConfigError
        If the imager cannot make them.
    """
    names = [*(["subbands.fits", "spectra.csv"] if options.subband_images else [])]
    names += ["transients.csv"] if options.transients else []
    if names and options.engine != "wsclean":
        raise ConfigError(
            f"imaging: subband_images and transients need engine wsclean, not {options.engine}"
        )
    return tuple(names)


def resolve(options: ImagingOptions) -> Recipe:
    """Return the preset with the values over it that the options give."""
    given = {
        field.name: value
        for field in fields(Recipe)
        if (value := getattr(options, field.name, None)) is not None
    }
    preset = PRESETS[options.preset]
    extra = dict(preset.extra) | options.wsclean
    resolved = replace(preset, **given, extra=tuple(extra.items()))
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
