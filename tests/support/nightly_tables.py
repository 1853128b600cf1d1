"""Photometry of nights in which few sources vary."""

import numpy as np
import pandas as pd

from dsa110_contimg.core.figures import PhotometryFigures
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.photometry.measure import COLUMNS
from support.figures import example


def night(folder, day, scale=None, failed=False, dec=33.0):
    """Write the table of a night in which sources 3 (a flare) and 5 (a dimming) vary."""
    rng = np.random.default_rng(day + (0 if scale is None else 7))
    n = 24
    steady = np.geomspace(0.02, 1.0, n)
    flux = steady * np.where(np.arange(n) == 5, 0.7 if 400 <= day < 405 else 1, 1)
    flux = np.where((np.arange(n) == 3) & (day == 6), 0.2, flux)
    flux = flux * (scale or np.exp(rng.normal(0, 0.05))) * np.exp(rng.normal(0, 0.01, n))
    flux += rng.normal(0, 1e-3, n)
    name = f"night{day:04d}"
    table = pd.DataFrame(
        {
            "source_id": [f"S{i:04d}" for i in range(n)],
            "name": [f"J{i:06d}.0+330000" for i in range(n)],
            "ra_deg": 4.0 * np.arange(n),
            "dec_deg": dec,
            "mjd": 61000.1 + day + 1e-3 * np.arange(n),
            "group_or_epoch": name,
            "flux_jy": flux,
            "flux_err_jy": 1e-3,
            "local_rms_jy": 1e-3,
            "snr": flux / 1e-3,
            "upper_limit_jy": np.where(flux > 5e-3, np.nan, 5e-3),
            "catalog_flux_jy": steady,
            "pb": 0.9,
            "flags": "",
            "image": "mosaic.fits",
        }
    )
    if day % 3 == 0:  # part of the sky only
        table = table[: n // 2]
    path = folder / "nights" / name / "photometry.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table[list(COLUMNS)].to_csv(path, index=False)
    made_by = {"image_sha256": f"{day:064d}", "image_version": f"v{day}"}
    card = Sidecar("photometry", figures=example(PhotometryFigures, **made_by))
    card.verdict = "fail" if failed else "pass"
    card.write(path)
    return path
