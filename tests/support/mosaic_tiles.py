"""Tiles of a known sky that make a mosaic, and the mosaic made of them."""

import json

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_contimg.core.layout import companion
from support.steps import run_step
from support.synthetic_images import (
    add_sources,
    beam_matrix,
    gaussian_beam,
    header,
    smooth_noise,
    write_tile,
)

CELL, BEAM, RMS = 30.0, (180.0, 130.0, 30.0), 1e-3
DEC, STEP = 33.0, 1.292
SIZE = 440


def sky(ra0, n_tiles, rng, n=60, flux=(0.05, 0.5)):
    """Sources on a jittered grid along the strip."""
    ra = ra0 + np.linspace(-1.4, (n_tiles - 1) * STEP + 1.4, n)
    dec = DEC + rng.uniform(-1.2, 1.2, n)
    return pd.DataFrame({"ra_deg": ra % 360, "dec_deg": dec, "flux_jy": rng.uniform(*flux, n)})


def draw(head, table, beam, pb=None, cell=CELL):
    x, y = WCS(head, fix=False).celestial.all_world2pix(table.ra_deg, table.dec_deg, 0)
    inside = (x > -20) & (x < SIZE + 20) & (y > -20) & (y < SIZE + 20)
    x, y, flux = x[inside], y[inside], table.flux_jy.to_numpy()[inside]
    if pb is not None:
        row, column = (np.clip(np.rint(p).astype(int), 0, SIZE - 1) for p in (y, x))
        flux = flux * pb[row, column]
    return add_sources(np.zeros((SIZE, SIZE)), x, y, flux, beam_matrix(beam, cell))


def write_tiles(folder, ra, table, rng, rms=RMS, beams=None, verdicts=None, pb_fwhm=2.7):
    """Write one tile for each right ascension, 309 s apart; return their paths."""
    folder.mkdir(exist_ok=True, parents=True)
    paths = []
    for i, centre in enumerate(np.asarray(ra)):
        beam = beams[i] if beams else BEAM
        mjd = 61000.1 + i * 309.24 / 86400
        head = header((SIZE, SIZE), (centre % 360, DEC), CELL, beam, mjd)
        head["TELESCOP"], head["MJD-BEG"], head["MJD-END"] = "DSA-110", mjd - 0.0017, mjd + 0.0017
        pb = gaussian_beam(head, (SIZE, SIZE), (centre, DEC), pb_fwhm)
        sigma = np.broadcast_to(rms, len(ra))[i]
        data = draw(head, table, beam, pb) + smooth_noise((SIZE, SIZE), sigma, 3.5, rng)
        group = f"20251121T{2 + (i * 309) // 3600:02d}{i * 309 // 60 % 60:02d}00"
        verdict = (verdicts or {}).get(i, "pass")
        paths.append(write_tile(folder, group, head, data, pb, sigma, verdict, ["broken"]))
    return paths


def run(output, paths, *options):
    command = ["mosaic", output, *paths, *options]
    assert run_step(*command) == 0
    record = json.loads(output.with_name(output.name + ".json").read_text())
    layers = {}
    for kind in ("image", "rms", "weight"):
        path = output if kind == "image" else companion(output, kind)
        with fits.open(path) as hdus:
            layers[kind] = [(h.data.squeeze().copy(), h.header.copy()) for h in hdus]
    return layers, record
