"""What a Measurement Set weighs in an image: Briggs weights, thermal noise, effective frequency.

The imager weighs each visibility by its position in the uv plane. The same weights, recomputed here
from the Measurement Set alone, say which noise the image would have if it held nothing but receiver
noise, and how integrations and channels share in the image's beam. Nothing here looks at the
visibilities themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..core.times import DAY_S
from ..ms.tile import Tile
from ..telescope.dsa110 import C_M_S, SEFD_JY

__all__ = ["Weighting", "briggs_factor", "weigh"]

#: Samples (rows x channels) taken at a time.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Weighting:
    """What the imaging weights amount to.

    Attributes
    ----------
    n_visibilities : int
        Stokes I visibilities that enter the image: unflagged, cross-correlations, above the uv cut.
    n_total : int
        All cross-correlation visibilities of the Measurement Set, flagged or not.
    flagged_fraction : float
        Share of cross-correlation visibilities that are flagged.
    weight : (n_time, n_chan) array
        Sum of imaging weights.
    baseline_m : (n, 3) array
        Mean uvw of each pair of antennas that is imaged, m.
    baseline_weight : (n,) array
        Sum of imaging weights of each.
    thermal_rms_jy : float
        Noise of the image by the radiometer equation and the imaging weights, Jy/beam.
    thermal_natural_jy : float
        The same with natural weights: the best these visibilities allow.
    freq_hz : float
        Mean frequency, weighted like the image.
    """

    n_visibilities: int
    n_total: int
    flagged_fraction: float
    weight: np.ndarray = field(repr=False)
    baseline_m: np.ndarray = field(repr=False)
    baseline_weight: np.ndarray = field(repr=False)
    thermal_rms_jy: float
    thermal_natural_jy: float
    freq_hz: float


def briggs_factor(
    density: np.ndarray, total: float, sum_of_squares: float, robust: float
) -> np.ndarray:
    """Return the factor by which Briggs weighting multiplies a visibility's weight.

    Parameters
    ----------
    density : array
        Sum of weights in the uv cell of the visibility.
    total : float
        Sum of weights of all visibilities.
    sum_of_squares : float
        Sum over cells of squared density.
    robust : float
        -2 (uniform) to 2 (natural).

    Returns
    -------
    array
        ``1 / (1 + density f^2)`` with ``f^2 = (5 10^-robust)^2 total / sum_of_squares`` (D. Briggs,
        thesis, New Mexico Tech 1995, section 3.2.2).
    """
    f2 = (5 * 10**-robust) ** 2 * total / sum_of_squares
    return 1 / (1 + density * f2)


def weigh(
    tile: Tile,
    *,
    size_px: int,
    cell_arcsec: float,
    robust: float,
    uvmin_lambda: float,
    padding: float = 1.2,
    sefd_jy: float = SEFD_JY,
) -> Weighting:
    """Compute the imaging weights of a tile and what follows from them.

    Parameters
    ----------
    tile : Tile
        The Measurement Set; 9 bytes a sample are held in memory.
    size_px, cell_arcsec, robust, uvmin_lambda
        As given to the imager: they fix the uv cells and the weights.
    padding : float
        Factor by which the imager pads images; 1.2 is WSClean's.
    sefd_jy : float
        System equivalent flux density of one antenna and polarisation, Jy. A correlation of
        bandwidth B and time t has the noise ``sefd / sqrt(2 B t)`` in its real and imaginary parts.
        Weights may hold calibrated gains, so they tell only by comparison how much of a sample's
        B t was flagged before averaging: against the best moment of its baseline and channel.

    Returns
    -------
    Weighting
        With ``n_visibilities`` 0, and NaN for noise and frequency, if nothing is left to image.
    """
    grid_px = round(size_px * padding)
    density = np.zeros((grid_px // 2 + 1) * grid_px)
    complete = np.zeros((tile.n_antennas**2, len(tile.freq_hz)), np.float32)
    blocks = list(_blocks(tile, grid_px, cell_arcsec, uvmin_lambda))
    for block in blocks:
        # The density counts the short baselines too, though they do not enter the image.
        cell, weight = block.cell.ravel(), block.weight.ravel()
        density += np.bincount(cell, weight, minlength=density.size)
        for rows in block.by_moment():
            pair = block.pair[rows]
            complete[pair] = np.maximum(complete[pair], block.weight[rows])
    n_total = sum(block.n_total for block in blocks)
    n_unflagged = sum(np.count_nonzero(block.weight) for block in blocks)
    n_used = sum(int(np.count_nonzero(block.weight * block.used)) for block in blocks)
    shape = (len(tile.time_mjd), len(tile.freq_hz))
    flagged = 1 - n_unflagged / n_total if n_total else 1.0
    if n_used == 0:
        nan = float("nan")
        none = np.zeros((0, 3)), np.zeros(0)
        return Weighting(0, n_total, flagged, np.zeros(shape), *none, nan, nan, nan)
    # Noise of Stokes I, half the sum of two correlations, if all its raw data are good.
    time_bandwidth = tile.interval_s[:, None] * np.abs(tile.width_hz)
    variance_full = sefd_jy**2 / (2 * time_bandwidth) / 2
    total, squares = density.sum(), (density**2).sum()
    sums = np.zeros(shape)
    pairs = np.zeros((4, tile.n_antennas**2))  # u, v, w times weight; weight
    variance = natural = 0.0
    for block in blocks:
        used = block.weight * block.used
        factor = briggs_factor(density[block.cell], total, squares, robust)
        weight = used * factor
        # The variance of a sample is this over its weight.
        scaled = variance_full[block.moment] * complete[block.pair]
        variance += np.einsum("ij,ij,ij", weight, factor, scaled)
        natural += (used / np.where(scaled > 0, scaled, np.inf)).sum()
        for rows in block.by_moment():
            sums[block.moment[rows.start]] += weight[rows].sum(axis=0)
        of_row = weight.sum(axis=1)
        for total_of, factors in zip(pairs, (*block.uvw_m.T, 1.0), strict=True):
            total_of += np.bincount(block.pair, of_row * factors, minlength=total_of.size)
    imaged = pairs[3] > 0
    return Weighting(
        n_visibilities=n_used,
        n_total=n_total,
        flagged_fraction=flagged,
        weight=sums,
        baseline_m=(pairs[:3, imaged] / pairs[3, imaged]).T,
        baseline_weight=pairs[3, imaged],
        thermal_rms_jy=float(np.sqrt(variance) / sums.sum()),
        thermal_natural_jy=float(1 / np.sqrt(natural)),
        freq_hz=float((sums * tile.freq_hz).sum() / sums.sum()),
    )


@dataclass(frozen=True)
class _Block:
    """Stokes I samples of some rows of a Measurement Set; flagged ones have no weight.

    `used` tells those above the shortest baseline, `n_total` counts flagged ones too.
    """

    n_total: int
    uvw_m: np.ndarray  # (rows, 3)
    pair: np.ndarray  # (rows,): index of antenna x antenna
    moment: np.ndarray  # (rows,): index of the integration
    weight: np.ndarray  # (rows, channels)
    used: np.ndarray
    cell: np.ndarray  # index of the uv cell

    def by_moment(self) -> Iterator[slice]:
        """Yield runs of rows of one integration each."""
        edges = np.flatnonzero(np.diff(self.moment)) + 1
        for start, stop in itertools.pairwise([0, *edges.tolist(), len(self.moment)]):
            yield slice(start, stop)


def _blocks(tile: Tile, grid_px: int, cell_arcsec: float, uvmin_lambda: float) -> Iterator[_Block]:
    from casacore.tables import table

    n_chan = len(tile.freq_hz)
    per_metre = tile.freq_hz / C_M_S
    cells = np.deg2rad(cell_arcsec / 3600) * grid_px  # cells of the uv grid per wavelength
    with table(str(tile.path), ack=False) as main:
        has_spectrum = "WEIGHT_SPECTRUM" in main.colnames() and main.iscelldefined(
            "WEIGHT_SPECTRUM", 0
        )
        step = max(1, _CHUNK // n_chan)
        for start in range(0, main.nrows(), step):
            n = min(step, main.nrows() - start)
            # Imagers drop a Stokes I sample if either of its correlations is flagged.
            flag = main.getcol("FLAG", start, n)
            bad = flag[:, :, 0] | flag[:, :, -1]
            bad |= main.getcol("FLAG_ROW", start, n)[:, None]
            first, second = main.getcol("ANTENNA1", start, n), main.getcol("ANTENNA2", start, n)
            cross = first != second
            bad |= ~cross[:, None]
            if has_spectrum:
                weight = main.getcol("WEIGHT_SPECTRUM", start, n)
                weight = weight[:, :, 0] + weight[:, :, -1]
            else:
                weight = main.getcol("WEIGHT", start, n)[:, [0, -1]].sum(axis=1)
                weight = np.repeat(weight[:, None], n_chan, axis=1)
            weight[bad | (weight < 0)] = 0
            uvw = main.getcol("UVW", start, n)
            length = np.hypot(uvw[:, 0], uvw[:, 1])
            yield _Block(
                n_total=int(cross.sum()) * n_chan,
                uvw_m=uvw,
                pair=first.astype(np.int64) * tile.n_antennas + second,
                moment=np.searchsorted(tile.time_mjd, main.getcol("TIME", start, n) / DAY_S - 1e-9),
                weight=weight,
                used=length[:, None] * per_metre >= uvmin_lambda,
                cell=_cell(uvw[:, :2], per_metre * cells, grid_px),
            )


def _cell(uv_m: np.ndarray, cells_per_m: np.ndarray, grid_px: int) -> np.ndarray:
    """Return the index of the uv cell of rows and channels; the plane is folded to v >= 0.

    Samples beyond the grid, finer than the image's pixels resolve, share its edge.
    """
    folded = uv_m * np.where(uv_m[:, 1] < 0, -1, 1)[:, None]
    half = grid_px // 2
    x = np.floor(folded[:, :1] * cells_per_m).astype(np.int32) + half
    y = np.floor(folded[:, 1:] * cells_per_m).astype(np.int32)
    return np.clip(y, 0, half) * grid_px + np.clip(x, 0, grid_px - 1)
