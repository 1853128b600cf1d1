"""Take the brightest catalogued sources out of the visibilities, and put them back into the image.

A source drifts through the beam while it is observed and its beam narrows with frequency, so its
visibilities are not those of a constant source, and clean, which knows only constant ones, leaves
sidelobes of what varies. A catalogued source's visibilities are known, beam and all: they are
subtracted from a copy of the data before cleaning, and the source returns to the restored image as
one beam with its mean apparent flux.

Nothing rests on the catalogue's flux or position: what the source differs by stays in the data and
is imaged and cleaned like everything else.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.times import DAY_S
from ..ms.tile import Tile
from ..telescope.beam import TileBeam
from ..telescope.dsa110 import C_M_S, DISH_DIAMETER_M
from ..telescope.smearing import Smearing

if TYPE_CHECKING:
    import pandas as pd
    from astropy.wcs import WCS

__all__ = [
    "Seeds",
    "add_to_image",
    "add_to_model",
    "choose",
    "corrected",
    "mask",
    "offsets_of",
    "subtract",
]

#: Samples (rows x channels) a thread takes at a time.
_CHUNK = 500_000


@dataclass(frozen=True)
class Seeds:
    """Point sources that are subtracted from the visibilities.

    Attributes
    ----------
    ra_deg, dec_deg : (n,) array
        ICRS.
    spectra_jy : (n, n_chan) array
        Flux density at each channel, before the beam.
    apparent_jy : (n,) array
        Mean of flux times beam, weighted over time and frequency like the image.
    offsets : (n, 3) array
        Direction cosines ``(l, m, n - 1)`` about the phase centre, as the baselines see them.
    only : (n,) int array, optional
        The one integration in which each shines; all, if absent.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    spectra_jy: np.ndarray
    apparent_jy: np.ndarray
    offsets: np.ndarray
    only: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ra_deg)

    def head(self, n: int) -> Seeds:
        """Return the first ones; `choose` puts the brightest first."""
        only = None if self.only is None else self.only[:n]
        return Seeds(
            self.ra_deg[:n],
            self.dec_deg[:n],
            self.spectra_jy[:n],
            self.apparent_jy[:n],
            self.offsets[:n],
            only,
        )


def choose(
    catalog: pd.DataFrame, beam: TileBeam, wcs: WCS, least_jy: float, most: int, scale: float = 1.0
) -> Seeds:
    """Choose the apparently brightest catalogue sources in the main lobe of the beam.

    The main lobe reaches beyond the image: a source there cannot be cleaned, and its sidelobes
    would cross the whole image. Beyond the first null the beam is not known well enough.

    Parameters
    ----------
    catalog : DataFrame
        As `catalogs.read_catalog` returns it.
    beam : TileBeam
        Beam, with the weights of the image.
    wcs : astropy.wcs.WCS
        Celestial coordinates of the image.
    least_jy : float
        Least flux times beam, Jy.
    most : int
        Greatest number.
    scale : float
        How many times larger the field appears to the baselines than it is (aberration).
    """
    from ..catalogs.catalogue import flux_at

    mean_hz = float((beam.weights * beam.freq_hz).sum() / beam.weights.sum())
    near = _in_main_lobe(catalog, wcs, mean_hz)
    guess = np.asarray(flux_at(near.flux_jy, near.alpha, mean_hz))
    guess = guess * beam.response(near.ra_deg.to_numpy(), near.dec_deg.to_numpy())
    brightest = np.argsort(-guess)[:most]
    near = near.iloc[brightest[guess[brightest] >= least_jy]]
    spectra = np.array(
        [
            flux_at(flux, alpha, beam.freq_hz)
            for flux, alpha in zip(near.flux_jy, near.alpha, strict=True)
        ]
    ).reshape(len(near), len(beam.freq_hz))
    ra, dec = near.ra_deg.to_numpy(), near.dec_deg.to_numpy()
    total = beam.weights.sum()
    apparent = [
        (beam.weights * beam.samples(a, d) * spectrum).sum() / total
        for a, d, spectrum in zip(ra, dec, spectra, strict=True)
    ]
    return Seeds(ra, dec, spectra, np.array(apparent, float), offsets_of(ra, dec, wcs, scale))


def _in_main_lobe(catalog: pd.DataFrame, wcs: WCS, freq_hz: float) -> pd.DataFrame:
    from ..telescope.beam import separation_rad

    null_rad = 1.22 * C_M_S / freq_hz / DISH_DIAMETER_M
    ra0, dec0 = wcs.wcs.crval
    away = separation_rad(ra0, dec0, catalog.ra_deg, catalog.dec_deg)
    return catalog[away < null_rad]


def _in_image(catalog: pd.DataFrame, wcs: WCS, size_px: int) -> pd.DataFrame:
    from ..telescope.beam import separation_rad

    ra0, dec0 = wcs.wcs.crval
    reach = np.deg2rad(size_px * abs(wcs.wcs.cdelt[1]))
    near = catalog[separation_rad(ra0, dec0, catalog.ra_deg, catalog.dec_deg) < min(reach, 1.5)]
    x, y = wcs.all_world2pix(near.ra_deg, near.dec_deg, 0)
    return near[(x >= 0) & (x <= size_px - 1) & (y >= 0) & (y <= size_px - 1)]


def subtract(
    tile: Tile, seeds: Seeds, beam: TileBeam, smearing: Smearing, out: Path, threads: int = 1
) -> Tile:
    """Write a copy of a tile without the seeds.

    Parameters
    ----------
    tile : Tile
        Calibrated Measurement Set; not changed.
    seeds : Seeds
        What to subtract.
    beam : TileBeam
        Pointing at each integration; channels as in the tile.
    smearing : Smearing
        How the visibilities were averaged.
    out : Path
        The copy.
    threads : int
        Threads that compute.

    Returns
    -------
    Tile
        The copy, with the same description.
    """
    from dataclasses import replace

    from casacore.tables import table

    shutil.copytree(tile.path, out)
    attenuated = _attenuated(seeds, beam)
    rows = max(1, _CHUNK // len(tile.freq_hz))
    with table(str(out), ack=False, readonly=False) as main, ThreadPoolExecutor(threads) as pool:
        n_rows = main.nrows()
        for start in range(0, n_rows, rows * threads):
            n = min(rows * threads, n_rows - start)
            uvw = main.getcol("UVW", start, n)
            moment = np.searchsorted(tile.time_mjd, main.getcol("TIME", start, n) / DAY_S - 1e-9)
            data = main.getcol(tile.column, start, n)

            def remove(part: slice, uvw: Any = uvw, moment: Any = moment, data: Any = data) -> None:
                model = _predict(
                    uvw[part], moment[part], seeds.offsets, attenuated, tile.freq_hz, smearing
                )
                data[part, :, 0] -= model
                data[part, :, -1] -= model

            # Each thread has rows of its own.
            list(pool.map(remove, [slice(k, k + rows) for k in range(0, n, rows)]))
            main.putcol(tile.column, data, start, n)
    return replace(tile, path=out)


def _attenuated(seeds: Seeds, beam: TileBeam) -> np.ndarray:
    """Return the fluxes that the dishes see, (n_seeds, n_time, n_chan)."""
    attenuated = np.array(
        [
            beam.samples(ra, dec) * spectrum
            for ra, dec, spectrum in zip(seeds.ra_deg, seeds.dec_deg, seeds.spectra_jy, strict=True)
        ]
    )
    if seeds.only is not None:
        attenuated *= (np.arange(attenuated.shape[1]) == seeds.only[:, None])[:, :, None]
    return attenuated


def corrected(
    left: Tile, seeds: Seeds, beam: TileBeam, smearing: Smearing, bands: int, threads: int = 1
) -> Seeds:
    """Return seeds with the spectra that the visibilities themselves show.

    A seed's flux in a band is corrected by its least-squares fit to what is left of the data,
    ``sum w Re(p* r) / sum w |p|^2`` with its predicted visibilities p, the residual r and the
    weights w, each seed for itself.

    Parameters
    ----------
    left : Tile
        Measurement Set without the seeds, from `subtract`.
    seeds, beam, smearing, threads
        As of `subtract`.
    bands : int
        Parts of the band in each of which a spectrum may be off by another factor.
    """
    from dataclasses import replace

    from casacore.tables import table

    attenuated, n_chan = _attenuated(seeds, beam), len(left.freq_hz)
    product, norm = np.zeros((2, len(seeds), n_chan))
    rows = max(1, _CHUNK // n_chan)
    with table(str(left.path), ack=False) as main, ThreadPoolExecutor(threads) as pool:
        for start in range(0, main.nrows(), rows):
            n = min(rows, main.nrows() - start)
            uvw = main.getcol("UVW", start, n)
            moment = np.searchsorted(left.time_mjd, main.getcol("TIME", start, n) / DAY_S - 1e-9)
            data = main.getcol(left.column, start, n)[:, :, [0, -1]].mean(axis=2)
            weight = main.getcol("WEIGHT", start, n)[:, [0, -1]].sum(axis=1)[:, None]
            weight = weight * ~main.getcol("FLAG", start, n)[:, :, [0, -1]].any(axis=2)

            def fit(
                k: int, uvw: Any = uvw, moment: Any = moment, data: Any = data, weight: Any = weight
            ) -> None:
                one = slice(k, k + 1)
                model = _predict(
                    uvw, moment, seeds.offsets[one], attenuated[one], left.freq_hz, smearing
                )
                product[k] += (weight * (model.conj() * data).real).sum(axis=0)
                norm[k] += (weight * np.abs(model) ** 2).sum(axis=0)

            list(pool.map(fit, range(len(seeds))))
    spectra = seeds.spectra_jy.copy()
    for part in np.array_split(np.arange(n_chan), min(bands, n_chan)):
        with np.errstate(invalid="ignore", divide="ignore"):
            change = product[:, part].sum(axis=1) / norm[:, part].sum(axis=1)
        spectra[:, part] *= 1 + np.nan_to_num(change)[:, None]
    return replace(seeds, spectra_jy=spectra)


def offsets_of(ra_deg: ArrayLike, dec_deg: ArrayLike, wcs: WCS, scale: float = 1.0) -> np.ndarray:
    """Return ``(l, m, n - 1)`` of directions about the centre of an image, shape (n, 3).

    Parameters
    ----------
    ra_deg, dec_deg : (n,) array
        ICRS.
    wcs : astropy.wcs.WCS
        Celestial coordinates of the image.
    scale : float
        How many times larger the field appears to the baselines than it is (aberration).
    """
    ra0, dec0 = np.deg2rad(wcs.wcs.crval)
    ra, dec = np.deg2rad(ra_deg) - ra0, np.deg2rad(dec_deg)
    east = scale * np.cos(dec) * np.sin(ra)
    north = scale * (np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra))
    squared = east**2 + north**2
    # sqrt(1 - r^2) - 1 without loss of digits
    return np.stack([east, north, -squared / (1 + np.sqrt(1 - squared))], axis=1)


def _predict(
    uvw: np.ndarray,
    moment: np.ndarray,
    offsets: np.ndarray,
    attenuated: np.ndarray,
    freq_hz: np.ndarray,
    smearing: Smearing,
) -> np.ndarray:
    """Return the visibilities of all seeds, (n_rows, n_chan) complex.

    The sum of ``S(t, nu) exp(2 pi i nu / c (u l + v m + w (n - 1)))``, u, v, w in metres, each
    smeared as the data are.
    """
    n_chan = len(freq_hz)
    step = np.diff(freq_hz)
    uniform = n_chan > 1 and np.allclose(step, step[0], rtol=1e-6)
    model = np.zeros((len(uvw), n_chan), complex)
    turns = np.empty_like(model)
    for offset, amplitude in zip(offsets, attenuated, strict=True):
        delay = 2 * np.pi / C_M_S * (uvw @ offset)
        if uniform:
            # Channels follow from the first by doubling: a product is cheaper than an exponential.
            turns[:, 0] = np.exp(1j * delay * freq_hz[0])
            done = 1
            while done < n_chan:
                more = min(done, n_chan - done)
                factor = np.exp(1j * delay * (done * step[0]))
                np.multiply(turns[:, :more], factor[:, None], out=turns[:, done : done + more])
                done += more
        else:
            np.exp(1j * delay[:, None] * freq_hz, out=turns)
        turns *= amplitude[moment]
        if not smearing.none:
            turns *= smearing.fringe(uvw, offset, freq_hz)
        model += turns
    return model


def add_to_image(
    image: np.ndarray,
    seeds: Seeds,
    beam_deg: tuple[float, float, float],
    wcs: WCS,
) -> np.ndarray:
    """Return the image with the seeds restored: one beam each, at its exact position.

    Seeds outside the image stay out.

    Parameters
    ----------
    image : (rows, columns) array
        Jy/beam.
    seeds : Seeds
        What was subtracted.
    beam_deg : (float, float, float)
        Restoring beam: FWHM of both axes and position angle, deg.
    wcs : astropy.wcs.WCS
        Celestial coordinates of the image; square pixels, north up.
    """
    image = image.copy()
    cell = abs(wcs.wcs.cdelt[1])
    major, minor, angle = beam_deg[0] / cell, beam_deg[1] / cell, np.deg2rad(beam_deg[2])
    reach = int(np.ceil(2.5 * major))  # a Gaussian is 3e-8 of its peak there
    xs, ys = wcs.all_world2pix(seeds.ra_deg, seeds.dec_deg, 0)
    for x, y, flux in zip(xs, ys, seeds.apparent_jy, strict=True):
        rows = np.arange(max(0, round(y) - reach), min(image.shape[0], round(y) + reach + 1))
        columns = np.arange(max(0, round(x) - reach), min(image.shape[1], round(x) + reach + 1))
        east, north = -(columns[None, :] - x), rows[:, None] - y
        along = east * np.sin(angle) + north * np.cos(angle)
        across = east * np.cos(angle) - north * np.sin(angle)
        stamp = np.exp(-4 * np.log(2) * ((along / major) ** 2 + (across / minor) ** 2))
        image[np.ix_(rows, columns)] += (flux * stamp).astype(image.dtype)
    return image


def add_to_model(model: np.ndarray, seeds: Seeds, wcs: WCS) -> np.ndarray:
    """Return the model (Jy/pixel) with the seeds, each shared by the four pixels around it."""
    model = model.copy()
    xs, ys = wcs.all_world2pix(seeds.ra_deg, seeds.dec_deg, 0)
    for x, y, flux in zip(xs, ys, seeds.apparent_jy, strict=True):
        column, row = int(np.floor(x)), int(np.floor(y))
        right, up = x - column, y - row
        for r, c, share in (
            (row, column, (1 - right) * (1 - up)),
            (row, column + 1, right * (1 - up)),
            (row + 1, column, (1 - right) * up),
            (row + 1, column + 1, right * up),
        ):
            if 0 <= r < model.shape[0] and 0 <= c < model.shape[1]:
                model[r, c] += flux * share
    return model


def mask(catalog: pd.DataFrame, wcs: WCS, size_px: int, radius_arcsec: float) -> np.ndarray:
    """Return an image that is 1 within a radius of catalogue sources and 0 elsewhere."""
    image = np.zeros((size_px, size_px), np.float32)
    radius = radius_arcsec / 3600 / abs(wcs.wcs.cdelt[1])
    reach = int(np.ceil(radius))
    offsets = np.arange(-reach, reach + 1)
    down, across = np.nonzero(np.hypot(offsets[:, None], offsets) <= radius)
    near = _in_image(catalog, wcs, size_px)
    x, y = wcs.all_world2pix(near.ra_deg, near.dec_deg, 0)
    rows = np.rint(y).astype(int)[:, None] + down - reach
    columns = np.rint(x).astype(int)[:, None] + across - reach
    inside = (rows >= 0) & (rows < size_px) & (columns >= 0) & (columns < size_px)
    image[rows[inside], columns[inside]] = 1
    return image
