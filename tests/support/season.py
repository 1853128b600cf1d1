"""A season of photometry at the level of tables, with events that no template has exactly."""

import numpy as np
import pandas as pd

from dsa110_contimg.lightcurves import templates
from dsa110_contimg.lightcurves.assemble import assemble
from dsa110_contimg.lightcurves.store import Night, Store

RMS = 1e-3


def make(rng, n_constant, n_ese, n_flare, n_epochs=30, sigma=5.0, systematic=0.02, bad_epoch=1.2):
    """Return measurements as `lightcurves.read_night` gives them, and each source's kind.

    Steady fluxes are log-uniform between 10 mJy and 1 Jy, noise is 1 mJy, every measurement has a
    fractional error of `systematic`, every epoch a flux scale 5 % off at random, one of them by
    `bad_epoch`. Events have an extreme of `sigma` times the error of one measurement. Lenses have
    strengths from 2 to 30, sources sizes from 0.3 to 0.8 of the lens; flares rise in a night and
    decay exponentially.
    """
    mjd = 61041.2 + np.arange(n_epochs) + rng.uniform(-0.02, 0.02, n_epochs)
    kinds = np.array(["constant"] * n_constant + ["ese"] * n_ese + ["flare"] * n_flare)
    n = len(kinds)
    steady = np.exp(rng.uniform(np.log(0.01), np.log(1.0), n))
    change = np.zeros((n, n_epochs))
    for i in np.flatnonzero(kinds != "constant"):
        centre = mjd[0] + rng.uniform(0.2, 0.8) * (mjd[-1] - mjd[0])
        if kinds[i] == "ese":
            u = (mjd - centre) / rng.uniform(1.5, 5)
            curve = templates.gaussian_lens(u, rng.uniform(2, 30), rng.uniform(0.3, 0.8)) - 1
        else:
            late = mjd - centre
            curve = np.where(late < 0, np.exp(late / 0.5), np.exp(-late / rng.uniform(1.5, 5)))
        error = np.hypot(RMS, systematic * steady[i])
        change[i] = sigma * error * curve / np.abs(curve).max()
    scale = np.exp(rng.normal(0, 0.05, n_epochs))
    scale[n_epochs // 3] *= bad_epoch
    flux = (steady[:, None] + change) * np.exp(rng.normal(0, systematic, change.shape)) * scale
    flux += rng.normal(0, RMS, flux.shape)
    source, epoch = (a.ravel() for a in np.indices(flux.shape))
    table = pd.DataFrame(
        {
            "source_id": np.char.mod("S%05d", source),
            "name": np.char.mod("J%06d", source),
            "ra_deg": 360 * source / n,
            "dec_deg": 33.0,
            "mjd": mjd[epoch],
            "epoch": np.char.mod("night%04d", epoch),
            "flux_jy": flux.ravel(),
            "flux_err_jy": RMS,
            "local_rms_jy": RMS,
            "snr": flux.ravel() / RMS,
            "upper_limit_jy": np.where(flux.ravel() / RMS < 5, 5 * RMS, np.nan),
            "catalog_flux_jy": steady[source],
            "pb": 0.9,
            "flags": "",
            "used": True,
        }
    )
    return table, pd.Series(kinds, index=np.char.mod("S%05d", np.arange(n)))


def light_curves(table, options):
    """Return light curves, measures of variability and figures of a table of measurements."""
    store, curves = Store(":memory:", ""), []
    known = dict.fromkeys(("table", "image", "image_sha256", "image_version"), "")
    known |= dict.fromkeys(("steady", "RAOFF_arcsec", "DECOFF_arcsec", "offset_error_arcsec"))
    known |= {"rejected": False, "correction": {}}
    nights = []
    for epoch, points in table.groupby("epoch"):
        record = known | {"epoch": epoch, "mjd": float(points.mjd.median())}
        nights.append(Night(epoch, epoch, record, points))
    store.replace([], nights)
    measures, figures = assemble(store, options, curves.append)
    return pd.concat(curves), measures, figures
