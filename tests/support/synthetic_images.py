"""Analytic images for the truth tests of photometry and mosaics: Gaussian sources, smooth noise."""

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from dsa110_contimg.core.figures import ImageFigures
from dsa110_contimg.core.sidecar import Sidecar
from support.figures import example

FWHM = np.sqrt(8 * np.log(2))
FREQ_HZ = 1.4e9  # the catalogue's own frequency: no spectral index in the way


def header(shape, centre, cell_arcsec=6.0, beam_arcsec=(36.0, 26.0, 30.0), mjd=61000.0):
    """4-D RA-DEC-FREQ-STOKES header, as WSClean writes it."""
    h = fits.Header()
    h["BUNIT"] = "JY/BEAM"
    h["BMAJ"], h["BMIN"], h["BPA"] = beam_arcsec[0] / 3600, beam_arcsec[1] / 3600, beam_arcsec[2]
    axes = [
        ("RA---SIN", shape[1] // 2 + 1, centre[0], -cell_arcsec / 3600, "deg"),
        ("DEC--SIN", shape[0] // 2 + 1, centre[1], cell_arcsec / 3600, "deg"),
        ("FREQ", 1, FREQ_HZ, 187.5e6, "Hz"),
        ("STOKES", 1, 1, 1, ""),
    ]
    for i, (ctype, crpix, crval, cdelt, unit) in enumerate(axes, 1):
        h[f"CTYPE{i}"], h[f"CRPIX{i}"], h[f"CRVAL{i}"] = ctype, crpix, crval
        h[f"CDELT{i}"], h[f"CUNIT{i}"] = cdelt, unit
    h["RADESYS"], h["EQUINOX"] = "ICRS", 2000.0
    h["MJD-AVG"] = mjd
    return h


def beam_matrix(beam_arcsec, cell_arcsec):
    """Covariance of the beam in pixels (x to the west, y to the north)."""
    major, minor, angle = beam_arcsec
    a = np.deg2rad(angle)
    axis = np.array([-np.sin(a), np.cos(a)])  # east is -x
    across = np.array([np.cos(a), np.sin(a)])
    sky = np.outer(axis, axis) * major**2 + np.outer(across, across) * minor**2
    return sky / FWHM**2 / cell_arcsec**2


def add_sources(image, x, y, flux, covariance):
    """Add Gaussians at pixel positions (0-based), peak flux."""
    inverse = np.linalg.inv(covariance)
    half = int(np.ceil(6 * np.sqrt(np.max(np.diag(covariance)))))
    for xs, ys, s in zip(x, y, flux, strict=True):
        c, r = round(xs), round(ys)
        c0, c1 = max(0, c - half), min(image.shape[1], c + half + 1)
        r0, r1 = max(0, r - half), min(image.shape[0], r + half + 1)
        if c0 >= c1 or r0 >= r1:
            continue
        dx, dy = np.arange(c0, c1) - xs, (np.arange(r0, r1) - ys)[:, None]
        image[r0:r1, c0:c1] += s * np.exp(
            -0.5 * (inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2)
        )
    return image


def smooth_noise(shape, sigma, fwhm_px, rng):
    """White noise convolved with a round Gaussian, scaled to standard deviation `sigma`."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), fwhm_px / FWHM, mode="wrap")
    return noise * (sigma / noise.std())


def gaussian_beam(head, shape, centre, fwhm_deg=2.7, peak=0.95):
    """A round primary beam about a direction."""
    wcs = WCS(head, fix=False).celestial
    x, y = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    ra, dec = wcs.all_pix2world(x, y, 0)
    away2 = ((ra - centre[0] + 180) % 360 - 180) ** 2 * np.cos(np.deg2rad(dec)) ** 2 + (
        dec - centre[1]
    ) ** 2
    return peak * np.exp(-4 * np.log(2) * away2 / fwhm_deg**2)


def write(path, head, data, dtype=np.float32):
    fits.writeto(path, data.astype(dtype)[None, None], head, overwrite=True)


def write_tile(folder, group, head, data, pb, rms, verdict="pass", reasons=()):
    """Write ``<id>.image.fits`` with ``.pb`` and ``.rms`` and its sidecar; return its path."""
    path = folder / f"{group}.image.fits"
    write(path, head, data)
    write(folder / f"{group}.pb.fits", head, pb)
    write(folder / f"{group}.rms.fits", head, np.broadcast_to(rms, data.shape))
    figures = example(ImageFigures)
    Sidecar("image", figures=figures, verdict=verdict, reasons=list(reasons)).write(path)
    return path
