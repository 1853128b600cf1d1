"""The steps that work on tables, for real, one after the other, on two small nights of images."""

import csv
import json

import numpy as np
from astropy.wcs import WCS

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.times import DAY_S, group_id, group_mjd, night_of
from support.steps import run_step
from support.synthetic_images import (
    add_sources,
    beam_matrix,
    gaussian_beam,
    header,
    smooth_noise,
    write_tile,
)

#: Field of the images, and of sources that are not in it, deg.
CENTRE, AWAY = (150.0, 33.0), (200.0, -10.0)
CELL, BEAM, RMS, SIZE = 30.0, (180.0, 130.0, 30.0), 1e-3, 160
FIRST_MJD = 61000.1
NUMBERS = ("ra_deg", "dec_deg", "flux_jy")


def positions(n, centre=CENTRE):
    """Return right ascensions and declinations of some sources, three beams apart, deg."""
    row, column = np.divmod(np.arange(n), 7)
    return centre[0] + 0.18 * (column - 3), centre[1] + 0.15 * (row - 3)


def write_catalog(path, names, ra_deg, dec_deg, flux_jy=0.3):
    """Write a catalogue as a person's program does: text in quotes where CSV wants it."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", *NUMBERS])
        fluxes = np.broadcast_to(flux_jy, len(names))
        writer.writerows(zip(names, ra_deg, dec_deg, fluxes, strict=True))
    return path


def write_image(results, mjd, ra_deg=(), dec_deg=(), flux_jy=0.3, blank=False, seed=1):
    """Write a tile with some sources; return its group."""
    group = group_id(mjd)
    shape = (SIZE, SIZE)
    folder = Layout(results).group(group)
    folder.mkdir(parents=True)
    head = header(shape, CENTRE, CELL, BEAM, group_mjd(group))
    head["TELESCOP"], head["MJD-BEG"], head["MJD-END"] = "DSA-110", mjd, mjd + 309 / DAY_S
    pb = gaussian_beam(head, shape, CENTRE)
    data = smooth_noise(shape, RMS, 4.0, np.random.default_rng(seed))
    x, y = WCS(head, fix=False).celestial.all_world2pix(ra_deg, dec_deg, 0)
    apparent = np.asarray(flux_jy) * pb[np.rint(y).astype(int), np.rint(x).astype(int)]
    add_sources(data, x, y, apparent, beam_matrix(BEAM, CELL))
    if blank:
        data[:] = np.nan
    write_tile(folder, group, head, data, pb, RMS)
    return group


class Chain:
    """A results folder and the steps that make tables, mosaics and pages in it.

    Each step is called as its rule calls it; `failed` gathers those that did not end with 0.
    """

    def __init__(self, folder, catalog):
        self.results, self.catalog = folder / "results", catalog
        self.layout = Layout(self.results)
        self.failed = []

    def step(self, name, *arguments):
        if run_step(name, *arguments):
            self.failed.append(name)

    def night(self, groups):
        """Make all tables, mosaic and verdict of a night."""
        night = night_of(groups[0])
        image, table = self.layout.night(night, "mosaic.fits"), self.layout.night(night)
        for group in groups:
            own = self.layout.group(group, "photometry.csv")
            self.step("photometry", self.layout.group(group, "image.fits"), own, *self._catalog)
        self.step("mosaic", image, *(self.layout.group(g, "image.fits") for g in groups))
        self.step("photometry", image, table / "photometry.csv", *self._catalog)
        self.step("blind", image, table / "blind.csv", *self._catalog, "--enabled")
        self.step("mosaic_view", image, table / "mosaic.view.fits")
        self.step("night_qa", table, table / "qa.json")
        for group in groups:
            self.step("tile_report", self.layout.group(group), self.layout.group(group, "html"))
        return night

    def science(self, nights):
        """Make light curves, plots, pages of the nights, the index."""
        curves = self.layout.lightcurves()
        self.step("lightcurves", curves, *(self.layout.night(n, "photometry.csv") for n in nights))
        self.step("candidate_plots", curves, curves / "candidates")
        for night in nights:
            page = self.layout.night(night, "report.html")
            self.step("night_report", self.layout.night(night), page, "--lightcurves", curves)
        self.step("index", self.results, self.results / "index.sqlite")

    @property
    def _catalog(self):
        return "--catalog", self.catalog

    def record(self, product):
        """Return the sidecar of a product."""
        return json.loads(product.with_name(product.name + ".json").read_text())
