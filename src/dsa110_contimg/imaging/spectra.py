"""Optional products of a tile: images of parts of the band, and the spectra of its sources.

The known sources are taken out of the visibilities with the fluxes that the tile itself gives, what
is left is cleaned in each part of the band alone, and the sources return with what the beam leaves
of them there. All parts are restored with the beam of the lowest one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..maps.restore import restore
from ..ms.tile import Tile
from ..telescope.beam import TileBeam
from ..telescope.smearing import Smearing
from . import bright_sources
from .bright_sources import Seeds
from .weights import Weighting

if TYPE_CHECKING:
    import pandas as pd
    from astropy.wcs import WCS

__all__ = [
    "SPECTRUM_SNR",
    "Part",
    "fit_spectra",
    "image_part",
    "part_files",
    "parts_of",
    "spectra_table",
]

#: Sources above this signal-to-noise ratio in the whole band get a spectrum.
SPECTRUM_SNR = 10.0
#: Fewest parts of the band that a spectral index needs.
LEAST_PARTS = 2
_PLACE = ("source_id", "name", "ra_deg", "dec_deg")
_FITTED = ("alpha", "alpha_err", "flux_jy", "flux_err_jy", "freq_hz", "chi2", "n")


@dataclass(frozen=True)
class Part:
    """A part of the band.

    Attributes
    ----------
    channels : slice
        Of the Measurement Set.
    beam : TileBeam
        Beam of these channels, with their weights.
    freq_hz, width_hz : float
        Centre and width.
    """

    channels: slice
    beam: TileBeam
    freq_hz: float
    width_hz: float


def parts_of(tile: Tile, weighting: Weighting, beam: TileBeam, n: int) -> list[Part]:
    """Divide the band as WSClean's ``-channels-out`` does; parts without data are left out."""
    n_chan = len(tile.freq_hz)
    edges = [k * n_chan // n for k in range(n + 1)]
    parts = []
    for low, high in itertools.pairwise(edges):
        channels = slice(low, high)
        weight = weighting.weight[:, channels]
        if not weight.sum() > 0:
            continue
        freq = tile.freq_hz[channels]
        parts.append(
            Part(
                channels,
                TileBeam(beam.ra_deg, beam.dec_deg, freq, weight, beam.diameter_m),
                float(freq.mean()),
                float(np.abs(tile.width_hz[channels]).sum()),
            )
        )
    return parts


def part_files(prefix: Path, n: int, tile: Tile, parts: list[Part]) -> list[dict[str, Path]]:
    """Return the files WSClean leaves for each part: residual, model, psf."""
    n_chan = len(tile.freq_hz)
    numbers = {k * n_chan // n: k for k in reversed(range(n))}
    return [
        {
            kind: prefix.with_name(f"{prefix.name}-{numbers[part.channels.start]:04d}-{kind}.fits")
            for kind in ("residual", "model", "psf")
        }
        for part in parts
    ]


def image_part(
    part: Part,
    planes: dict[str, np.ndarray],
    known: Seeds,
    smearing: Smearing,
    weighting: Weighting,
    wcs: WCS,
    beam_deg: tuple[float, float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Restore a part of the band.

    Parameters
    ----------
    part : Part
    planes : dict
        ``residual``, ``model`` of what was left in the visibilities.
    known : Seeds
        What was taken out of them.
    smearing, weighting
        Of the whole band.
    wcs : astropy.wcs.WCS
        Celestial coordinates.
    beam_deg : (float, float, float)
        Restoring beam.

    Returns
    -------
    image, response : (rows, columns) float32 array
        Jy/beam before division by the response.
    """
    shape = planes["residual"].shape
    cell = abs(wcs.wcs.cdelt[1]) * 3600
    image = restore(planes["model"], planes["residual"], beam_deg, cell)
    baselines = weighting.baseline_m, weighting.baseline_weight
    response = part.beam.image(wcs, shape) * smearing.image(wcs, shape, *baselines, part.freq_hz)
    if len(known):
        total = part.beam.weights.sum()
        apparent = np.array(
            [
                (part.beam.weights * part.beam.samples(ra, dec) * spectrum[part.channels]).sum()
                for ra, dec, spectrum in zip(
                    known.ra_deg, known.dec_deg, known.spectra_jy, strict=True
                )
            ]
        )
        smeared = smearing.response(known.offsets, *baselines, part.freq_hz)
        seen = replace(known, apparent_jy=apparent / total * smeared)
        image = bright_sources.add_to_image(image, seen, beam_deg, wcs)
    return image, response.astype(np.float32)


def pivot_hz(freq_hz: np.ndarray, error: np.ndarray) -> float:
    """Return the frequency at which flux and spectral index are uncorrelated."""
    weight = 1 / np.asarray(error) ** 2
    return float(np.exp((weight * np.log(freq_hz)).sum() / weight.sum()))


def fit_spectra(freq_hz: np.ndarray, flux_jy: np.ndarray, error_jy: np.ndarray) -> dict[str, Any]:
    """Fit ``S = S0 (nu / nu0)^alpha`` to the fluxes of one source.

    By Gauss-Newton steps on the fluxes themselves: their errors are normal, those of logarithms of
    faint fluxes are not.

    Parameters
    ----------
    freq_hz, flux_jy, error_jy : (n,) array
        NaN is left out.

    Returns
    -------
    dict
        ``alpha``, ``alpha_err``, ``flux_jy`` and ``flux_err_jy`` at ``freq_hz`` (where it is
        uncorrelated with the index), ``chi2``, ``n``; NaN where there are fewer than two parts.
    """
    good = np.isfinite(flux_jy) & np.isfinite(error_jy) & (error_jy > 0)
    n = int(good.sum())
    if n < LEAST_PARTS:
        return dict.fromkeys(_FITTED, np.nan) | {"n": n}
    freq, flux, error = (np.asarray(x, float)[good] for x in (freq_hz, flux_jy, error_jy))
    reference = pivot_hz(freq, error)
    x = np.log(freq / reference)
    level, alpha = float(np.average(flux, weights=error**-2)), 0.0
    for _ in range(20):
        shape = np.exp(alpha * x)
        design = np.stack([shape, level * shape * x], axis=1) / error[:, None]
        step, *_ = np.linalg.lstsq(design, (flux - level * shape) / error, rcond=None)
        level, alpha = level + step[0], float(np.clip(alpha + step[1], -10, 10))
        if abs(step[1]) < 1e-6:
            break
    model = level * np.exp(alpha * x)
    design = np.stack([np.exp(alpha * x), model * x], axis=1) / error[:, None]
    covariance = np.linalg.pinv(design.T @ design)
    return {
        "alpha": alpha,
        "alpha_err": float(np.sqrt(covariance[1, 1])),
        "flux_jy": level,
        "flux_err_jy": float(np.sqrt(covariance[0, 0])),
        "freq_hz": reference,
        "chi2": float((((flux - model) / error) ** 2).sum()),
        "n": n,
    }


def spectra_table(tables: list[pd.DataFrame], freq_hz: list[float]) -> pd.DataFrame:
    """Join the photometry of the parts, one table each in order of frequency, into spectra.

    Returns
    -------
    DataFrame
        Names and places, the figures of `fit_spectra`, and ``flux_<MHz>_jy``,
        ``flux_err_<MHz>_jy`` of each part; no rows without parts.
    """
    import pandas as pd

    if not tables:
        return pd.DataFrame(columns=[*_PLACE, *_FITTED])
    first = tables[0]
    flux = np.array([table.flux_jy.to_numpy() for table in tables])
    error = np.array([table.flux_err_jy.to_numpy() for table in tables])
    fits = [fit_spectra(np.array(freq_hz), flux[:, k], error[:, k]) for k in range(len(first))]
    out = first[list(_PLACE)].reset_index(drop=True)
    out = pd.concat([out, pd.DataFrame(fits, columns=list(_FITTED))], axis=1)
    for k, freq in enumerate(freq_hz):
        out[f"flux_{freq / 1e6:.0f}_jy"] = flux[k]
        out[f"flux_err_{freq / 1e6:.0f}_jy"] = error[k]
    return out
