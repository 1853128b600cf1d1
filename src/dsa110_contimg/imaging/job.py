"""A tile and how it is imaged; what an imager leaves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.figures import ApplyFigures, SelfcalRound
from ..core.options import ImagingOptions, PhotometryOptions, SelfcalOptions
from ..maps import fits_headers
from ..maps.planes import celestial
from ..ms.tile import Tile
from ..telescope.beam import TileBeam
from ..telescope.smearing import Smearing
from .presets import Recipe
from .weights import Weighting

if TYPE_CHECKING:
    import pandas as pd
    from astropy.wcs import WCS

__all__ = ["Imaged", "Job", "facts_of", "measure_catalog"]


@dataclass(frozen=True)
class Job:
    """A tile and how it is to be imaged."""

    tile: Tile
    calibrated: ApplyFigures  # figures of the Measurement Set
    catalog: pd.DataFrame | None
    recipe: Recipe
    options: ImagingOptions
    selfcal: SelfcalOptions
    weighting: Weighting
    beam: TileBeam
    smearing: Smearing
    scale: float  # how many times larger the field appears than it is: aberration
    threads: int
    memory_gb: float | None

    def smeared(self, offsets: np.ndarray) -> np.ndarray:
        """Return the share of their flux that sources have after averaging, see `Smearing`."""
        w = self.weighting
        return self.smearing.response(offsets, w.baseline_m, w.baseline_weight, w.freq_hz)

    def response(self) -> np.ndarray:
        """Return what sources are attenuated by on the image's pixels: beam and averaging."""
        shape, w = (self.recipe.size_px,) * 2, self.weighting
        beam = self.beam.image(self.wcs, shape)
        if w.n_visibilities:
            beam *= self.smearing.image(self.wcs, shape, w.baseline_m, w.baseline_weight, w.freq_hz)
        return beam.astype(np.float32)

    @property
    def wcs(self) -> WCS:
        """Celestial coordinates of the images."""
        return celestial(fits_headers.image_header(facts_of(self), "pb"))


@dataclass
class Imaged:
    """What an imager leaves: planes by kind, its header's cards, the restoring beam (deg)."""

    planes: dict[str, np.ndarray]
    data: Tile  # what was imaged, with its seeds
    made_by: tuple[Recipe, Path]  # the recipe, and the prefix of its files
    cards: dict[str, Any] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    beam: tuple[float, float, float] | None = None
    seeded: Tile | None = None  # the data without the seeds
    selfcal: list[SelfcalRound] = field(default_factory=list)  # rounds of self-calibration


def measure_catalog(
    job: Job,
    beam_deg: tuple[float, float, float],
    planes: dict[str, np.ndarray],
    options: PhotometryOptions,
) -> pd.DataFrame:
    """Return the photometry of the catalogue's sources on the tile, as `photometry.measure`."""
    from ..photometry import images as photometry_images
    from ..photometry import measure as photometry

    plane = photometry_images.SkyPlane(
        data=planes["image"],
        wcs=job.wcs,
        beam_deg=beam_deg,
        rms=planes["rms"],
        response=planes["pb"],
        freq_hz=job.weighting.freq_hz,
        mjd=float(np.mean(job.tile.time_mjd)),
    )
    return photometry.measure(plane, job.catalog, options)


def facts_of(
    job: Job, imaged: Imaged | None = None, cards: dict[str, Any] | None = None
) -> fits_headers.ImageFacts:
    """Gather what the headers say."""
    tile, weighting = job.tile, job.weighting
    facts = fits_headers.ImageFacts(
        tile=tile,
        size_px=job.recipe.size_px,
        cell_arcsec=job.recipe.cell_arcsec / job.scale,
        freq_hz=float(tile.freq_hz.mean()),
        mean_mjd=(tile.start_mjd + tile.end_mjd) / 2,
        exposure_s=0.0,
        beam=imaged.beam if imaged else None,
        cards=(imaged.cards if imaged else {}) | (cards or {}),
        history=imaged.history if imaged else (),
    )
    if not weighting.n_visibilities:
        return facts
    by_time = weighting.weight.sum(axis=1)
    return replace(
        facts,
        freq_hz=weighting.freq_hz,
        mean_mjd=float((by_time * tile.time_mjd).sum() / by_time.sum()),
        exposure_s=float(tile.interval_s[by_time > 0].sum()),
    )
