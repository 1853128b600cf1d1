"""Self-calibration: correct a tile's gains by its own image, and keep only what is better.

A round makes a copy of the calibrated tile with the visibilities of its image, solves gains on it
with CASA, corrects a copy of the data by them and images that. The copy becomes the tile only when
its image is better by stated measures; otherwise it is thrown away, and the image from before is
what it was. Nothing of another step is changed: all happens in the scratch folder of the imaging.

The flux scale is that of the calibrator. Gains are normalised so that the mean product of two
antennas' gains is 1, and a round of amplitudes that moves the fluxes of the bright sources all the
same is not accepted.

CASA solves in a process of its own: this module is also a program (`core.programs.program`).
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..calibration.reference_antenna import choose_reference
from ..calibration.tables import read_cube
from ..core.errors import DataError
from ..core.figures import SelfcalRound
from ..core.options import SelfcalOptions
from ..core.programs import program, run_as_program, run_tool
from ..core.times import DAY_S
from ..ms.tile import Tile

__all__ = [
    "Round",
    "Rounds",
    "Solved",
    "add_difference_to_model",
    "apply_gains",
    "image_quality",
    "improve",
    "keep_sources",
    "rounds_of",
]

log = logging.getLogger(__name__)

#: Sources above this many times the noise tell whether the flux scale moved; the brightest so many.
BRIGHT_SIGMA, MOST_BRIGHT = 30.0, 50
#: A hole that deepens by more than this many times the noise is an artefact, not chance.
HOLE_SIGMA = 3.0
#: Clean components count as model where the image is above this many times the rms of the residuals
#: and above this share of the highest brightness within a beam.
MODEL_SIGMA, MODEL_SHARE = 10.0, 0.5
#: Rows that are corrected together.
ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Round:
    """One round: what is solved for (``phase`` or ``amplitude``), and how long a solution lasts."""

    mode: str
    interval_s: float | None = None  # None: the whole tile

    @property
    def solint(self) -> str:
        """Return the interval as CASA wants it."""
        return "inf" if self.interval_s is None else f"{self.interval_s:g}s"


def rounds_of(options: SelfcalOptions) -> list[Round]:
    """Return the rounds: first of phases, then of amplitudes with phases."""
    modes = (("phase", options.phase_s), ("amplitude", options.amplitude_s))
    return [Round(mode, seconds or None) for mode, lengths in modes for seconds in lengths]


class Pictured(Protocol):
    """An image: planes ``image`` and ``residual``, Jy/beam."""

    planes: dict[str, np.ndarray]


P = TypeVar("P", bound=Pictured)


@dataclass
class Rounds(Generic[P]):
    """What self-calibration gives.

    Attributes
    ----------
    tile : Tile
        The data of the best image.
    picture : Pictured
        The best image.
    record : list of SelfcalRound
        What became of each round.
    """

    tile: Tile
    picture: P
    record: list[SelfcalRound] = field(default_factory=list)


# --- judging --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quality:
    """Measures of an image.

    Attributes
    ----------
    peak_jy : float
        Highest brightness, Jy/beam.
    noise_jy : float
        Robust rms of the residuals: what most of the image is like.
    artefact_jy : float
        Plain rms of the residuals, sidelobes about bright sources included.
    trough_jy : float
        Depth of the deepest hole of the image, positive.
    """

    peak_jy: float
    noise_jy: float
    artefact_jy: float
    trough_jy: float

    @property
    def dynamic_range(self) -> float:
        """Peak over the plain rms of the residuals."""
        return self.peak_jy / self.artefact_jy


def image_quality(picture: Pictured) -> Quality:
    """Measure an image."""
    from ..maps.noise import mad_rms

    image, residual = picture.planes["image"], picture.planes["residual"]
    if not np.isfinite(residual).any():
        return Quality(*[float("nan")] * 4)
    return Quality(
        float(np.nanmax(image)),
        mad_rms(residual),
        float(np.sqrt(np.nanmean(residual.astype(float) ** 2))),
        float(-np.nanmin(image)),
    )


def bright_pixels(picture: Pictured, sigma: float = BRIGHT_SIGMA) -> tuple[np.ndarray, ...]:
    """Return rows and columns of the brightest local maxima of an image."""
    from scipy.ndimage import maximum_filter

    image = np.nan_to_num(picture.planes["image"])
    noise = image_quality(picture).noise_jy
    peaks = (image == maximum_filter(image, 9)) & (image > sigma * noise)
    rows, columns = np.nonzero(peaks)
    brightest = np.argsort(-image[rows, columns])[:MOST_BRIGHT]
    return rows[brightest], columns[brightest]


def keep_sources(picture: Pictured, models: Sequence[Path], beam_px: int) -> None:
    """Blank the model images but at the tops of sources that stand well above all artefacts.

    Components in the sidelobes of wrong gains, or beside a source, would confirm what is wrong:
    gains of the core against those of the outriggers, say, that make a point look wider than it is.

    Parameters
    ----------
    picture : Pictured
        Restored image and residuals.
    models : sequence of Path
        FITS images of clean components; they are changed.
    beam_px : int
        Major axis of the beam (FWHM), pixels.
    """
    from astropy.io import fits
    from scipy.ndimage import maximum_filter

    image = np.nan_to_num(picture.planes["image"])
    bright = image > MODEL_SIGMA * image_quality(picture).artefact_jy
    kept = bright & (image >= MODEL_SHARE * maximum_filter(image, 2 * beam_px + 1))
    for path in models:
        with fits.open(path, mode="update", memmap=False) as hdus:
            hdus[0].data[..., ~kept] = 0


def flux_ratio(before: Pictured, after: Pictured) -> float:
    """Return the ratio of the fluxes of bright sources, weighted by flux; 1 if there are none."""
    from scipy.ndimage import maximum_filter

    pixels = bright_pixels(before)
    old = before.planes["image"][pixels].sum()
    # A source whose phases became right may have moved by a pixel.
    new = maximum_filter(np.nan_to_num(after.planes["image"]), 3)[pixels].sum()
    return float(new / old) if len(pixels[0]) else 1.0


def why_worse(
    mode: str,
    before: Pictured,
    after: Pictured,
    options: SelfcalOptions,
    uncertainty: float = 0.0,
) -> tuple[str | None, dict[str, float]]:
    """Return why an image is not to be accepted, or None when it is, and the measures.

    Better means: the dynamic range grew by `least_gain`, neither noise nor holes grew, and the
    fluxes held. Phases that become right return flux, so in a round of phases fluxes may grow.

    Parameters
    ----------
    mode : str
        ``phase`` or ``amplitude``.
    before, after : Pictured
    options : SelfcalOptions
    uncertainty : float
        Error of the fluxes before, as a fraction, that a round of amplitudes takes out: twice as
        much is granted on top of the tolerance.
    """
    tolerance = options.flux_tolerance + 2 * uncertainty
    old, new = image_quality(before), image_quality(after)
    ratio = flux_ratio(before, after)
    figures = {
        "dynamic_range": new.dynamic_range,
        "dynamic_range_gain": new.dynamic_range / old.dynamic_range,
        "noise_ratio": new.noise_jy / old.noise_jy,
        "flux_ratio": ratio,
    }
    if not np.isfinite(list(figures.values())).all():
        return "the image is blank", figures
    if ratio < 1 - tolerance or (mode == "amplitude" and ratio > 1 + tolerance):
        return f"it would change the fluxes by a factor {ratio:.4f}", figures
    if new.noise_jy > 1.002 * old.noise_jy:
        return f"the noise would grow by a factor {new.noise_jy / old.noise_jy:.4f}", figures
    if new.trough_jy > old.trough_jy + HOLE_SIGMA * new.noise_jy:
        return f"a hole would grow from {old.trough_jy:.3g} to {new.trough_jy:.3g} Jy", figures
    if figures["dynamic_range_gain"] < 1 + options.least_gain:
        return f"the dynamic range gains {figures['dynamic_range_gain'] - 1:.1%} only", figures
    return None, figures


# --- gains ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solved:
    """Gains by interval and antenna.

    Attributes
    ----------
    time_mjd : (n_time,) array
        Middle of the intervals.
    gains : (n_time, n_antennas, n_pol) complex array
        1 where there is no solution: such data stay as they are.
    flagged : float
        Share of the solutions, of antennas that have data, that CASA did not find.
    """

    time_mjd: np.ndarray
    gains: np.ndarray
    flagged: float

    @classmethod
    def read(cls, path: Path, n_antennas: int, present: np.ndarray) -> Solved:
        """Read CASA's table with python-casacore.

        Parameters
        ----------
        path : Path
        n_antennas : int
            Rows of the antenna table.
        present : (n,) int array
            Antennas that have data.
        """
        solved = read_cube(path)
        gains = solved.of_antennas(n_antennas)[:, :, 0]
        missing = ~np.isfinite(gains)
        return cls(
            solved.time_s / DAY_S,
            np.where(missing, 1.0, gains),
            float(missing[:, present].mean()) if len(present) else 1.0,
        )

    def normalised(self, present: np.ndarray) -> Solved:
        """Return gains whose mean product of two antennas, over all times, has amplitude 1.

        An image's fluxes go as that mean, so they stay what the calibrator made them.
        """
        amplitude = np.abs(self.gains[:, present])
        n = amplitude.shape[1]
        products = (amplitude.sum(axis=1) ** 2 - (amplitude**2).sum(axis=1)) / (n * (n - 1))
        return replace(self, gains=self.gains / np.sqrt(products.mean(axis=0)))

    def scatter(self, present: np.ndarray) -> tuple[float, float]:
        """Return the rms of phases (deg) about each time's mean and of amplitudes about 1."""
        gains = self.gains[:, present]
        middle = gains.sum(axis=1, keepdims=True)
        phase = np.angle(gains * middle.conj())
        return (
            float(np.rad2deg(np.sqrt(np.mean(phase**2)))),
            float(np.sqrt(np.mean((np.abs(gains) - 1) ** 2))),
        )

    def nearest(self, time_mjd: np.ndarray) -> np.ndarray:
        """Return the index of the interval nearest to each time."""
        return np.abs(self.time_mjd[:, None] - np.asarray(time_mjd)).argmin(axis=0)


def _parts(n_rows: int) -> list[tuple[int, int]]:
    """Return first row and number of rows of the parts that are handled together."""
    starts = range(0, n_rows, ROWS_AT_ONCE)
    return [(start, min(ROWS_AT_ONCE, n_rows - start)) for start in starts]


def apply_gains(tile: Tile, solved: Solved, out: Path) -> Tile:
    """Write a copy of a tile whose data are divided by the gains of its antennas.

    Weights stay: they are those that the image's beam and noise were computed with, and gains near
    1 hardly move them.
    """
    from casacore.tables import table

    shutil.copytree(tile.path, out)
    with table(os.fspath(out), ack=False, readonly=False) as main:
        for part in _parts(main.nrows()):
            when = solved.nearest(main.getcol("TIME", *part) / DAY_S)
            pair = (
                solved.gains[when, main.getcol("ANTENNA1", *part)]
                * solved.gains[when, main.getcol("ANTENNA2", *part)].conj()
            )
            data = main.getcol(tile.column, *part)
            data /= pair[:, None].astype(data.dtype)
            main.putcol(tile.column, data, *part)
    return replace(tile, path=out)


def write_model(tile: Tile, out: Path, predict: Callable[[Path], None]) -> np.ndarray:
    """Write the copy that is solved on; return the flagged share of each antenna (NaN: no data).

    Parameters
    ----------
    tile : Tile
    out : Path
        The copy: `tile.column` becomes ``DATA``, ``MODEL_DATA`` the visibilities of the image.
    predict : callable
        Writes ``MODEL_DATA`` into the Measurement Set it is given.
    """
    from casacore.tables import table

    from ..telescope.dsa110 import RAW_NAME

    shutil.copytree(tile.path, out)
    predict(out)
    with table(os.fspath(out), ack=False, readonly=False) as main:
        if tile.column != "DATA":
            main.putcol("DATA", main.getcol(tile.column))
        antennas = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        flagged = np.concatenate(
            [main.getcol("FLAG", *part).mean(axis=(1, 2)) for part in _parts(main.nrows())]
        )
    with table(f"{out}::OBSERVATION", ack=False, readonly=False) as observation:
        observation.putcell("TELESCOPE_NAME", 0, RAW_NAME)  # the only one that CASA knows
    sums = sum(np.bincount(a, flagged, tile.n_antennas) for a in antennas)
    count = sum(np.bincount(a, minlength=tile.n_antennas) for a in antennas)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)


def add_difference_to_model(ms: Path, seeded: Tile) -> None:
    """Add to ``MODEL_DATA`` what the data have and a copy of them without the seeds has not."""
    from casacore.tables import table

    with (
        table(os.fspath(ms), ack=False, readonly=False) as whole,
        table(os.fspath(seeded.path), ack=False) as rest,
    ):
        for part in _parts(whole.nrows()):
            model, data, without = (
                t.getcol(column, *part)
                for t, column in (
                    (whole, "MODEL_DATA"),
                    (whole, seeded.column),
                    (rest, seeded.column),
                )
            )
            whole.putcol("MODEL_DATA", model + data - without, *part)


def solve(
    tile: Tile,
    step: Round,
    predict: Callable[[Path], None],
    folder: Path,
    *,
    uvmin_lambda: float,
    options: SelfcalOptions,
    timeout_s: float,
) -> tuple[Solved, np.ndarray]:
    """Solve gains of a tile on its image; return them, and the antennas that have data.

    Raises
    ------
    DataError
        If CASA finds no solution, or no antenna can be the reference.
    """
    from casacore.tables import table

    copy, found = folder / "solve.ms", folder / "gains"
    flagged = write_model(tile, copy, predict)
    with table(f"{copy}::ANTENNA", ack=False) as antennas:
        names = antennas.getcol("NAME")
    present = np.flatnonzero(flagged < 1)
    reference = choose_reference({names[a]: float(flagged[a]) for a in present})
    run_tool(
        program(
            "dsa110_contimg.imaging.selfcal",
            ms=copy.resolve(),
            caltable=found.resolve(),
            mode=step.mode,
            solint=step.solint,
            refant=",".join(reference[:5]),
            minsnr=options.min_snr,
            uvrange=f">{uvmin_lambda:g}lambda",
        ),
        timeout_s=timeout_s,
    )
    shutil.rmtree(copy)
    if not (found / "table.dat").exists():
        raise DataError("CASA found no gains")
    return Solved.read(found, len(names), present), present


# --- rounds ---------------------------------------------------------------------------------------


def improve(
    tile: Tile,
    picture: P,
    steps: Sequence[Round],
    image: Callable[[Tile, Path], P | None],
    predict: Callable[[P, Path], None],
    scratch: Path,
    *,
    uvmin_lambda: float,
    options: SelfcalOptions,
    timeout_s: float,
) -> Rounds[P]:
    """Go through the rounds, accepting only what makes the image better.

    The first round of phases that is not accepted ends the phases; amplitudes are tried all the
    same.

    Parameters
    ----------
    tile : Tile
        Calibrated data; not changed.
    picture : Pictured
        Their image.
    steps : sequence of Round
        What to try, in order.
    image : callable
        Makes the image of a tile in a folder of its own; None if that fails.
    predict : callable
        Writes ``MODEL_DATA``, the visibilities of an image, into a Measurement Set.
    scratch : Path
        Folder for everything.
    uvmin_lambda : float
        Shortest baseline that is solved on, wavelengths.
    options : SelfcalOptions
    timeout_s : float
        Time limit of a solve, s.
    """
    best = Rounds(tile, picture)
    ended = set()
    for number, step in enumerate(steps, 1):
        if step.mode in ended:
            continue
        entry: dict[str, Any] = asdict(step)
        folder = scratch / f"selfcal{number}"
        folder.mkdir()
        try:
            solved, present = solve(
                best.tile,
                step,
                partial(predict, best.picture),
                folder,
                uvmin_lambda=uvmin_lambda,
                options=options,
                timeout_s=timeout_s,
            )
            reason, candidate = _attempt(best, step, solved, present, image, folder, options, entry)
        except DataError as error:
            reason, candidate = str(error), None
        entry["accepted"] = candidate is not None
        if candidate is None:
            entry["reason"] = reason
            ended.add(step.mode)
            shutil.rmtree(folder)
        else:
            if best.tile is not tile:
                shutil.rmtree(best.tile.path.parent)
            best.tile, best.picture = candidate
        best.record.append(SelfcalRound(**entry))
        log.info("self-calibration, round %d: %s", number, entry)
    return best


def _attempt(
    best: Rounds[P],
    step: Round,
    solved: Solved,
    present: np.ndarray,
    image: Callable[[Tile, Path], P | None],
    folder: Path,
    options: SelfcalOptions,
    entry: dict[str, Any],
) -> tuple[str | None, tuple[Tile, P] | None]:
    """Return why a solution is not accepted, or the tile and the image that it gives."""
    entry["flagged"] = solved.flagged
    if solved.flagged > options.max_flagged:
        return f"{solved.flagged:.0%} of the solutions are too weak", None
    uncertainty = 0.0
    if step.mode == "amplitude":
        solved = solved.normalised(present)
        # A flux is a mean over products of two gains, which weights make one of fewer antennas.
        uncertainty = 2 * solved.scatter(present)[1] / np.sqrt(len(present))
    entry["phase_scatter_deg"], entry["amplitude_scatter"] = solved.scatter(present)
    tile = apply_gains(best.tile, solved, folder / "tile.ms")
    picture = image(tile, folder)
    if picture is None:
        return "its image could not be made", None
    reason, figures = why_worse(step.mode, best.picture, picture, options, uncertainty)
    entry |= figures
    return (reason, None) if reason else (None, (tile, picture))


def _main(
    ms: str, caltable: str, mode: str, solint: str, refant: str, minsnr: float, uvrange: str
) -> None:
    """Solve gains on MODEL_DATA with CASA; names are absolute paths."""
    from ..core.casa import casa_session

    with casa_session() as casa:
        casa.gaincal(
            vis=ms,
            caltable=caltable,
            gaintype="G",
            calmode={"phase": "p", "amplitude": "ap"}[mode],
            solint=solint,
            combine="scan",
            refant=refant,
            minsnr=minsnr,
            minblperant=4,
            uvrange=uvrange,
        )


if __name__ == "__main__":
    run_as_program(_main)
