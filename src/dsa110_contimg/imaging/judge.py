"""Is this tile good? Noise, dynamic range and beam, and the verdict that follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.figures import CatalogCheck, ImageFigures
from ..core.options import ImagingOptions
from ..core.sidecar import Sidecar
from ..maps.noise import mad_rms
from .weights import Weighting

__all__ = ["image_figures", "judge"]


def image_figures(
    image: np.ndarray, residual: np.ndarray, rms: np.ndarray, pb: np.ndarray, pb_limit: float
) -> dict[str, Any]:
    """Return noise, peak, dynamic range and residual statistics inside the beam.

    Parameters
    ----------
    image, residual, rms, pb : (rows, columns) array
        Restored and residual image, local noise (Jy/beam), primary beam.
    pb_limit : float
        Where the beam is below this, pixels do not count.
    """
    inside = (pb >= pb_limit) & np.isfinite(image)
    if not inside.any():
        return {"rms_jy": None, "peak_jy": None, "dynamic_range": None}
    noise = float(np.median(rms[inside]))
    peak = float(image[inside].max())
    trough = float(image[inside].min())
    left = residual[inside]
    row, column = np.unravel_index(np.argmax(np.where(inside, image, -np.inf)), image.shape)
    return {
        "rms_jy": noise,
        "rms_min_jy": float(rms[inside].min()),
        "rms_max_jy": float(rms[inside].max()),
        "rms_at_peak_jy": float(rms[row, column]),
        "peak_jy": peak,
        "trough_jy": trough,
        "peak_pixel": [int(column), int(row)],
        "dynamic_range": peak / noise if noise > 0 else None,
        "residual_rms_jy": mad_rms(left),
        "residual_std_jy": float(left.std()),
        "residual_peak_jy": float(np.abs(left).max()),
        "pb_max": float(np.nanmax(pb)),
    }


def judge(
    sidecar: Sidecar, figures: ImageFigures, weighting: Weighting, options: ImagingOptions
) -> None:
    """Set a tile's verdict from its figures, with a reason for each fault."""
    rms, thermal = figures.rms_jy, weighting.thermal_rms_jy
    if rms is None:
        sidecar.fail("the image holds no finite pixel inside the beam")
        return
    if not rms > 0:
        sidecar.fail("the image is empty: its noise is zero")
        return
    if rms > options.max_rms_jy:
        sidecar.fail(
            f"noise {rms * 1e3:.1f} mJy/beam exceeds the limit of {options.max_rms_jy * 1e3:.0f}"
        )
    peak, dynamic_range = figures.peak_jy, figures.dynamic_range
    assert peak is not None and dynamic_range is not None  # as there is noise
    ratio = rms / thermal
    noisy = ratio > options.warn_rms_ratio
    if noisy:
        sidecar.warn(f"noise is {ratio:.1f} times thermal ({thermal * 1e3:.3f} mJy/beam)")
    if noisy and dynamic_range < options.min_dynamic_range:
        sidecar.warn(f"dynamic range {dynamic_range:.0f} is below {options.min_dynamic_range:.0f}")
    if abs(figures.trough_jy) > peak:
        sidecar.warn("the deepest trough exceeds the highest peak")
    if figures.beam_major_arcsec is None or figures.beam_minor_arcsec is None:
        sidecar.fail("no restoring beam could be fitted")
    elif figures.catalog is not None:
        _judge_sky(sidecar, figures.catalog, figures.beam_minor_arcsec, options)


def _judge_sky(
    sidecar: Sidecar, sky: CatalogCheck, beam_arcsec: float, options: ImagingOptions
) -> None:
    """Judge flux scale, pointing, positions and completeness; errors count twice over."""
    if sky.flux_ratio is not None and sky.flux_ratio_error is not None:
        off = abs(sky.flux_ratio - 1) - 2 * sky.flux_ratio_error
        if off > options.max_flux_scale_error:
            sidecar.fail(
                f"flux scale: median ratio to the catalogue {sky.flux_ratio:.2f} "
                f"({sky.n_sources} sources)"
            )
    pointing = sky.pointing_offset
    if pointing and pointing.significance > 5 and pointing.offset_deg > options.warn_pointing_deg:
        sidecar.warn(
            f"beam mispointed by {pointing.offset_deg:.2f} deg towards position angle "
            f"{pointing.position_angle_deg:.0f} deg ({pointing.significance:.0f} sigma, from "
            f"{pointing.n} flux ratios)"
        )
    place = sky.astrometry
    if place:
        shift = np.hypot(place.ra_offset_arcsec, place.dec_offset_arcsec)
        if shift - 2 * place.error_arcsec > beam_arcsec / 4:
            sidecar.warn(f"positions are off by {shift:.1f} arcsec")
    few = sky.completeness is not None and sky.completeness < options.min_completeness
    if sky.n_expected >= 10 and few:
        sidecar.warn(
            f"completeness: {sky.completeness:.0%} of {sky.n_expected} sources expected at "
            f"10 sigma are found"
        )
