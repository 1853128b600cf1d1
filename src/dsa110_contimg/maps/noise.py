"""Noise of images: robust scatter, and its map."""

from __future__ import annotations

import numpy as np

from ..core.robust import NOISE_MAD_TO_SIGMA, mad

__all__ = ["local_rms", "mad_rms"]

#: Side of the boxes in which the local noise is estimated, in restoring beams (geometric mean). A
#: box then holds some 350 beams, which gives the noise to 4 %, and sources fill little of it.
BOX_BEAMS = 20


def mad_rms(values: np.ndarray) -> float:
    """Return the standard deviation of normal noise from the median absolute deviation."""
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan")
    return float(NOISE_MAD_TO_SIGMA * mad(values))


def local_rms(image: np.ndarray, beam_px: float) -> np.ndarray:
    """Return the local noise of an image, sources left out.

    Median absolute deviation of what is left in boxes of 20 beams after clipping at 3 sigma,
    median-filtered over three boxes and interpolated by splines (``photutils``).

    Parameters
    ----------
    image : (rows, columns) array
        Before correction for the primary beam, so that noise is nearly uniform; NaN is masked.
    beam_px : float
        Geometric mean of the beam's axes (FWHM), pixels.

    Returns
    -------
    (rows, columns) float32 array
        Same unit as the image; NaN where the image is.
    """
    from astropy.stats import SigmaClip
    from photutils.background import Background2D, MADStdBackgroundRMS

    bad = ~np.isfinite(image)
    if bad.all():
        return np.full(image.shape, np.nan, np.float32)
    box = int(np.clip(round(BOX_BEAMS * beam_px), 16, min(image.shape)))
    estimate = Background2D(
        image,
        box,
        mask=bad,
        exclude_percentile=90,
        filter_size=3,
        sigma_clip=SigmaClip(3.0, maxiters=5),
        bkg_rms_estimator=MADStdBackgroundRMS(),
    )
    rms = estimate.background_rms.astype(np.float32)
    rms[bad] = np.nan
    return rms
