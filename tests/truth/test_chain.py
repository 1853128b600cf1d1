"""The whole chain, raw files to light curves, gives back the sky that went in.

Signs, the step from apparent to ICRS coordinates, the drifting beam and the flux scale are all
wrong or all right here at once.
"""

import csv
import io
import subprocess
import sys
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import parse_single_table, validate
from astropy.wcs import WCS
from scipy.optimize import curve_fit

from dsa110_contimg import cli
from dsa110_contimg.core.sidecar import read_sidecar
from dsa110_contimg.maps import planes as map_planes
from dsa110_contimg.reports import export
from dsa110_contimg.reports import index as index_module
from support.chain import run_chain


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
            assert sidecar.inputs and sidecar.tools and sidecar.timings_s, kind
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


def test_a_point_of_a_light_curve_leads_to_the_raw_files_and_back(noisy):
    truth, layout = noisy
    (night,) = layout.night("").iterdir()
    source = pd.read_csv(night / "photometry.csv").source_id.iloc[0]
    raw = {f"incoming/{path.name}" for path in (truth.folder / "incoming").iterdir()}
    curves = "lightcurves/lightcurves.parquet"
    with closing(index_module.open_index(layout.results / "index.sqlite")) as db:
        for image in tiles(layout):
            point = index_module.measurement_product(
                db, str(bright_inner(image).source_id.iloc[0]), image.parent.name
            )
            steps = [row["step"] for row in index_module.lineage(db, point) if row["step"]]
            assert steps[:3] == ["photometry", "image", "apply"]
            assert set(steps[3:]) == {"calibrate", "convert", "group"}
        point = index_module.measurement_product(db, str(source), night.name)
        assert point == f"nights/{night.name}/photometry.csv"
        behind = {row["path"] for row in index_module.lineage(db, point)}
        assert {path for path in behind if path.endswith(".hdf5")} >= raw
        for path in raw:
            made = {row["path"] for row in index_module.recall(db, path)}
            assert {point, curves} <= made
        tables = [path for path in behind if path.endswith(".bcal")]
        assert len(tables) == 1
        made = {row["path"] for row in index_module.recall(db, tables[0])}
        names = {str(image.relative_to(layout.results)) for image in tiles(layout)}
        assert names | {point, curves} <= made


def solid_angle(plane):
    """Return the sky that has weight, sr: the sum of its pixels' areas on the sphere."""
    step = 4
    wcs = plane.wcs()
    y, x = np.mgrid[: plane.data.shape[0] : step, : plane.data.shape[1] : step]

    def vector(dx, dy):
        ra, dec = np.radians(wcs.pixel_to_world_values(x + dx, y + dy))
        return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)

    side = [vector(0.5, 0) - vector(-0.5, 0), vector(0, 0.5) - vector(0, -0.5)]
    area = np.linalg.norm(np.cross(*side), axis=-1)
    weight = plane.data[::step, ::step]
    return step**2 * area[np.isfinite(weight) & (weight > 0)].sum()


def test_exports_of_the_chain_are_valid(noisy, tmp_path):
    _, layout = noisy
    (night,) = layout.night("").iterdir()
    assert cli.main(["export", str(layout.results), str(tmp_path)]) == 0
    for name in ("obscore.vot", f"{night.name}.vot", "sources.vot"):
        said = io.StringIO()
        assert validate(str(tmp_path / name), output=said), said.getvalue()
    records = parse_single_table(tmp_path / "obscore.vot").to_table()
    assert set(export.OBSCORE) == set(records.colnames)
    for name in ("obs_id", "obs_publisher_did", "access_url", "s_region", "facility_name"):
        assert all(str(value).strip() for value in records[name]), name
    mandatory = ("s_ra", "s_dec", "s_fov", "t_min", "t_max", "t_exptime", "em_min", "em_max")
    assert all(np.isfinite(records[name].filled(np.nan)).all() for name in mandatory)
    areas = [
        solid_angle(plane) for plane in map_planes.read_planes(night / "mosaic.weight.fits")[::2]
    ]
    uniq = fits.getdata(tmp_path / f"{night.name}.moc.fits", 1)["UNIQ"].astype(np.int64)
    order = (np.floor(np.log2(uniq)).astype(int) - 2) // 2
    assert (4 * np.pi / (12 * 4.0**order)).sum() == pytest.approx(sum(areas), rel=0.01)


def test_pages_show_what_the_data_say(chain):
    truth, layout = chain
    (night,) = layout.night("").iterdir()
    page = (night / "report.html").read_text()
    for image in tiles(layout):
        group = image.parent.name
        text = (image.parent / f"{group}.html").read_text()
        assert "could not be drawn" not in text
        assert text.count("<img") == 5  # image, residual, visibilities, flags, fluxes
        assert f"groups/{group}/{group}.html" in page
    (solutions,) = night.glob("groups/*/*.solutions.html")
    assert "could not be drawn" not in solutions.read_text()
    assert "mosaic.view.fits, cannot be shown" not in page
    # In the tile of its transit the calibrator outshines the field: its flux, and no phase.
    group = solutions.parent.name
    summary = read_sidecar(solutions.parent / f"{group}.cal.ms").figures.visibilities
    for axis in ("frequency", "time", "antenna"):
        phase = np.array(getattr(summary, axis).phase_deg["XX"], float)
        # Channels full of interference have few data left, whose phase is anything.
        assert np.nanpercentile(np.abs(phase), 80) < 5, axis
    amplitude = np.array(summary.frequency.amplitude_jy["XX"], float)
    expected = true_fluxes(truth, 1.405e9)["3C48"]
    assert 0.8 * expected < np.nanmedian(amplitude) < 1.1 * expected
