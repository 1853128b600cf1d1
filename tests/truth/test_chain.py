"""The whole chain, raw files to light curves, gives back the sky that went in.

Signs, the step from apparent to ICRS coordinates, the drifting beam and the flux scale are all
wrong or all right here at once.
"""

import csv
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from scipy.optimize import curve_fit

from dsa110_contimg.products import Layout, read_sidecar


def run_chain(truth, folder):
    """Run the workflow on a simulated folder; return the layout of its results."""
    command = [sys.executable, "-m", "dsa110_contimg", "run"]
    command += ["--configfile", str(truth.folder / "config.yaml"), "--config", "results=results"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Layout(folder / "results")


@pytest.fixture(scope="module")
def noisy(tiny_night, tmp_path_factory):
    return tiny_night, run_chain(tiny_night, tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def noiseless(clean_night, tmp_path_factory):
    return clean_night, run_chain(clean_night, tmp_path_factory.mktemp("noiseless"))


@pytest.fixture(params=["noisy", "noiseless"])
def chain(request):
    return request.getfixturevalue(request.param)


def tiles(layout):
    return sorted(layout.results.glob("nights/*/groups/*/*.image.fits"))


def true_fluxes(truth, freq_hz):
    """Return flux by name at a frequency, from the simulation's own table."""
    with open(truth.folder / "truth/sources.csv") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: float(row["flux_jy"]) * (freq_hz / 1.4e9) ** float(row["alpha"])
        for row in rows
    }


def bright_inner(image):
    """Return the photometry rows above 20 sigma inside 30 % of the beam."""
    table = pd.read_csv(str(image).replace(".image.fits", ".photometry.csv"))
    return table[(table.snr > 20) & (table.pb > 0.3)]


def test_fluxes(chain):
    truth, layout = chain
    ratios = []
    for image in tiles(layout):
        true = true_fluxes(truth, fits.getheader(image)["CRVAL3"])
        rows = bright_inner(image)
        ratios += list(rows.flux_jy / [true[name] for name in rows.source_id])
    assert len(ratios) >= 10
    assert np.median(ratios) == pytest.approx(1.0, abs=0.02)


def gaussian(xy, peak, x, y, sxx, sxy, syy):
    dx, dy = xy[0] - x, xy[1] - y
    return peak * np.exp(-0.5 * (sxx * dx**2 + 2 * sxy * dx * dy + syy * dy**2))


def offset_beams(image, ra_deg, dec_deg):
    """Fit an elliptical Gaussian at a position; return its offset (east, north) in beams (BMAJ)."""
    header = fits.getheader(image)
    data = fits.getdata(image).squeeze()
    wcs = WCS(header).celestial
    x, y = wcs.world_to_pixel_values(ra_deg, dec_deg)
    half = max(3, round(0.75 * header["BMAJ"] / header["CDELT2"]))
    ix, iy = round(float(x)), round(float(y))
    box = np.mgrid[iy - half : iy + half + 1, ix - half : ix + half + 1][::-1].reshape(2, -1)
    values = data[box[1], box[0]]
    width = 8 * np.log(2) / (header["BMAJ"] / header["CDELT2"]) ** 2
    start = (values.max(), x, y, width, 0.0, width)
    fitted, _ = curve_fit(gaussian, box, values, start)
    there = SkyCoord(*wcs.pixel_to_world_values(fitted[1], fitted[2]), unit="deg")
    east, north = SkyCoord(ra_deg, dec_deg, unit="deg").spherical_offsets_to(there)
    return east.deg / header["BMAJ"], north.deg / header["BMAJ"]


def test_positions(chain):
    _, layout = chain
    offsets = np.array(
        [
            offset_beams(image, row.ra_deg, row.dec_deg)
            for image in tiles(layout)
            for row in bright_inner(image).itertuples()
        ]
    )
    assert len(offsets) >= 10
    assert np.abs(np.median(offsets, axis=0)).max() < 1 / 20
    assert np.median(np.hypot(*offsets.T)) < 1 / 20


def test_every_product_is_there_with_its_sidecar(noisy):
    _, layout = noisy
    for image in tiles(layout):
        prefix = str(image).removesuffix(".image.fits")
        group = image.parent / f"group_{image.parent.name}.hdf5"
        maps = [f"{kind}.fits" for kind in ("pb", "pbcor", "residual", "model", "psf", "rms")]
        for path in [group, *(f"{prefix}.{kind}" for kind in ("ms", "photometry.csv", *maps))]:
            assert (image.parent / path).exists(), path
        for kind in ("ms", "image.fits", "photometry.csv"):
            sidecar = read_sidecar(f"{prefix}.{kind}")
            assert sidecar["inputs"] and sidecar["tools"] and sidecar["timings_s"], kind
    assert len(list(layout.results.glob("nights/*/groups/*/*.bcal"))) == 1
    (night,) = layout.night("").iterdir()
    for name in ("mosaic.fits", "mosaic.rms.fits", "photometry.csv", "qa.json", "report.html"):
        assert (night / name).stat().st_size > 0, name
    for name in ("lightcurves.parquet", "variability.csv", "candidates.csv"):
        assert layout.lightcurves(name).is_file(), name
    assert (layout.results / "index.sqlite").is_file()


def test_a_second_run_has_nothing_to_do(noisy):
    truth, layout = noisy
    command = [sys.executable, "-m", "dsa110_contimg", "run"]
    command += ["--configfile", str(truth.folder / "config.yaml"), "--config", "results=results"]
    done = subprocess.run(
        [*command, "--", "--dry-run"],
        cwd=layout.results.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr
