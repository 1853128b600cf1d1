"""Model visibilities of a calibrator's field."""

from __future__ import annotations

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..catalogs import calibrators, catalogue
from ..telescope.beam import TileBeam, separation_rad
from ..telescope.phasors import phasors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FieldModel", "antenna_uvw", "direction_offsets", "field_model", "predict"]

#: Neighbours are modelled when their mean apparent flux exceeds this share of the calibrator's ...
LEAST_SHARE = 5e-4


#: ... the brightest so many of them.
MOST_SOURCES = 100


#: Neighbours further from the phase centre are not looked for, deg (second null of the beam).
SEARCH_RADIUS_DEG = 6.0


#: Threads of the prediction.
N_THREADS = min(4, len(os.sched_getaffinity(0)))


#: ... which a second copy shows, with every integration and one channel a subband.


@dataclass(frozen=True)
class FieldModel:
    """Point sources of a calibrator's field; the calibrator is the first.

    Attributes
    ----------
    names : list of str
    ra_deg, dec_deg : (n_source,) array
        ICRS, deg.
    flux_jy : (n_source, n_chan) array
        Flux densities before the beam, Jy.
    share : float
        Share of the calibrator in the apparent flux of all catalogued sources of the field.
    apparent_jy : float
        Mean apparent flux of the calibrator over the tile, Jy.
    """

    names: list[str]
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    flux_jy: np.ndarray
    share: float
    apparent_jy: float


def field_model(
    calibrator: calibrators.Calibrator, catalog: pd.DataFrame | None, beam: TileBeam
) -> FieldModel:
    """Choose the sources of a calibrator's field.

    Parameters
    ----------
    calibrator : Calibrator
        Its flux comes from its own spectrum, never from the catalogue.
    catalog : DataFrame or None
        As of `catalogs.read_catalog`; without one the calibrator stands alone.
    beam : TileBeam
        Pointings and channels of the tile.
    """
    own = calibrator.flux(beam.freq_hz)
    own_apparent = _mean_apparent(beam, calibrator.ra_deg, calibrator.dec_deg, own[None])[0]
    names, ra, dec, flux = [calibrator.name], [calibrator.ra_deg], [calibrator.dec_deg], [own]
    share = 1.0
    if catalog is not None and len(catalog):
        table = catalog[_near(catalog, beam, calibrator)]
        fluxes = catalogue.flux_at(
            table.flux_jy.to_numpy()[:, None], table.alpha.to_numpy()[:, None], beam.freq_hz
        )
        apparent = _mean_apparent(beam, table.ra_deg.to_numpy(), table.dec_deg.to_numpy(), fluxes)
        share = float(own_apparent / (own_apparent + apparent.sum()))
        for i in np.argsort(-apparent)[:MOST_SOURCES]:
            if apparent[i] < LEAST_SHARE * own_apparent:
                break
            row = table.iloc[i]
            names.append(str(row["name"]))
            ra.append(row.ra_deg)
            dec.append(row.dec_deg)
            flux.append(fluxes[i])
    return FieldModel(
        names, np.array(ra), np.array(dec), np.array(flux), share, float(own_apparent)
    )


def _near(catalog: pd.DataFrame, beam: TileBeam, calibrator: calibrators.Calibrator) -> np.ndarray:
    """Return which catalogue rows lie in the field and are not the calibrator itself."""
    ra, dec = catalog.ra_deg.to_numpy(), catalog.dec_deg.to_numpy()
    middle = len(beam.ra_deg) // 2
    off_centre = separation_rad(beam.ra_deg[middle], beam.dec_deg[middle], ra, dec)
    off_calibrator = separation_rad(calibrator.ra_deg, calibrator.dec_deg, ra, dec)
    return (off_centre < math.radians(SEARCH_RADIUS_DEG)) & (
        off_calibrator > math.radians(calibrators.SAME_SOURCE_ARCSEC / 3600)
    )


def _mean_apparent(
    beam: TileBeam, ra_deg: ArrayLike, dec_deg: ArrayLike, flux_jy: np.ndarray
) -> np.ndarray:
    """Return fluxes averaged over channels times the beam averaged over the tile, Jy."""
    return np.atleast_1d(beam.response(ra_deg, dec_deg)) * flux_jy.mean(axis=1)


def direction_offsets(
    ra_deg: ArrayLike, dec_deg: ArrayLike, ra0_deg: float, dec0_deg: float, mjd: float
) -> np.ndarray:
    """Return ``(l, m, n - 1)`` of ICRS directions about a phase centre, shape ``(n, 3)``.

    Baselines are apparent, so offsets are formed between apparent directions and then turned to the
    ICRS north of the phase centre, as the uvw axes are. Aberration and precession change an offset
    by up to 1e-4 of itself: 0.4 arcsec at 1 deg, several degrees of phase on the longest baselines.

    Parameters
    ----------
    ra_deg, dec_deg : (n,) array
        ICRS directions, deg.
    ra0_deg, dec0_deg : float
        Phase centre, ICRS, deg.
    mjd : float
        Time, UTC (the hundredth of a second to TT does not matter here).
    """
    import erfa

    step = 1e-4  # rad; finds the ICRS north in the apparent frame
    ra = np.deg2rad(np.concatenate([[ra0_deg, ra0_deg], np.atleast_1d(ra_deg)]))
    dec = np.deg2rad(np.concatenate([[dec0_deg, dec0_deg], np.atleast_1d(dec_deg)]))
    dec[1] -= step  # southwards: always a legal declination for this telescope
    cirs_ra, cirs_dec, _ = erfa.atci13(ra, dec, 0.0, 0.0, 0.0, 0.0, erfa.DJM0, mjd)
    d_ra = cirs_ra - cirs_ra[0]
    east = np.cos(cirs_dec) * np.sin(d_ra)
    north = np.sin(cirs_dec) * np.cos(cirs_dec[0]) - np.cos(cirs_dec) * np.sin(
        cirs_dec[0]
    ) * np.cos(d_ra)
    towards = np.sin(cirs_dec) * np.sin(cirs_dec[0]) + np.cos(cirs_dec) * np.cos(
        cirs_dec[0]
    ) * np.cos(d_ra)
    angle = np.arctan2(-east[1], -north[1])  # position angle of ICRS north
    cos, sin = np.cos(angle), np.sin(angle)
    offsets = np.stack([east * cos - north * sin, east * sin + north * cos, towards - 1], axis=-1)
    return offsets[2:]


def antenna_uvw(
    uvw_m: np.ndarray, antenna1: np.ndarray, antenna2: np.ndarray, n_antennas: int
) -> np.ndarray:
    """Return uvw of antennas, (n_antennas, 3), such that a baseline's is second minus first.

    The common origin is arbitrary. Antennas in no baseline get zeros.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import lsqr

    cross = np.flatnonzero(antenna1 != antenna2)
    rows = np.repeat(np.arange(len(cross)), 2)
    columns = np.stack([antenna1[cross], antenna2[cross]], axis=1).ravel()
    design = csr_matrix(
        (np.tile([-1.0, 1.0], len(cross)), (rows, columns)), (len(cross), n_antennas)
    )
    return np.stack(
        [lsqr(design, uvw_m[cross, i], atol=1e-14, btol=1e-14)[0] for i in range(3)], axis=1
    )


def predict(
    uvw_m: np.ndarray, offsets: np.ndarray, amplitude_jy: np.ndarray, freq_hz: np.ndarray
) -> np.ndarray:
    """Return model visibilities of all antenna pairs at one instant.

    The sum over point sources ``sum_s A_s exp(2 pi i nu / c (U_b - U_a) . offset_s)`` factorises
    into a product of antenna by source matrices for each channel. The sign is that of Measurement
    Sets, where ``UVW`` points from antenna 2 to antenna 1.

    Parameters
    ----------
    uvw_m : (n_antennas, 3) array
        As of `antenna_uvw`, m.
    offsets : (n_source, 3) array
        ``l, m, n`` relative to the direction that the data are turned to.
    amplitude_jy : (n_source, n_chan) array
        Apparent fluxes, Jy.
    freq_hz : (n_chan,) array
        Evenly spaced frequencies, Hz.

    Returns
    -------
    (n_chan, n_antennas, n_antennas) complex64
        Jy; first antenna, second antenna.
    """
    waves = phasors(uvw_m @ offsets.T, freq_hz)
    weighted = waves.conj() * amplitude_jy.T.astype(np.float32)[:, None, :]
    out = np.empty((len(freq_hz), len(uvw_m), len(uvw_m)), np.complex64)

    def multiply(part: slice) -> None:
        np.matmul(weighted[part], waves[part].transpose(0, 2, 1), out=out[part])

    # The matrices are small: threads share channels, not one product.
    edges = np.linspace(0, len(freq_hz), N_THREADS + 1).astype(int)
    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(multiply, (slice(a, b) for a, b in itertools.pairwise(edges))))
    return out
