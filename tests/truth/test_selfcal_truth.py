"""Self-calibration of tiles whose gains are wrong by known amounts, through WSClean and CASA."""

import json

import numpy as np
import pandas as pd
import pytest

from dsa110_contimg.core.options import PhotometryOptions
from dsa110_contimg.photometry import images as photometry_images
from dsa110_contimg.photometry import measure as photometry
from support import imaging_data
from support.steps import run_step

GROUP = "20260128T213600"
#: The image covers all sources; phases over the tile, then of each integration, then amplitudes.
OPTIONS = ["--size-px", "720", "--cell-arcsec", "7", "--selfcal", "--threads", "2"]
ROUNDS = ["--phase-s", "0", "80", "--amplitude-s", "0"]
N_ANTENNAS = 44


def field(n=14, seed=4):
    """Sources within 0.85 deg, none closer than 6 arcmin to another; the brightest has 2 Jy."""
    rng = np.random.default_rng(seed)
    places = []
    while len(places) < n:
        place = rng.uniform(-0.6, 0.6, 2)
        if all(np.hypot(*(place - other)) > 0.1 for other in places):
            places.append(place)
    east, north = np.array(places).T
    return imaging_data.offsets_to_sky(east, north, np.geomspace(2.0, 0.05, n))


def catalog_of(sky):
    names = [f"s{k}" for k in range(len(sky.flux_jy))]
    return pd.DataFrame(
        {"name": names, "ra_deg": sky.ra_deg, "dec_deg": sky.dec_deg, "flux_jy": sky.flux_jy}
    ).assign(alpha=0.0)


def spoil(ms, amplitude, phase_deg, drift_deg=0.0, seed=3):
    """Multiply the data by gains of known scatter whose mean product of two is 1."""
    from casacore.tables import table

    rng = np.random.default_rng(seed)
    with table(str(ms), ack=False, readonly=False) as main_table:
        first, second = main_table.getcol("ANTENNA1"), main_table.getcol("ANTENNA2")
        times = main_table.getcol("TIME")
        used = np.unique([first, second])
        size = np.ones(used.max() + 1)
        size[used] = 1 + amplitude * rng.standard_normal(len(used))
        total, squares = size[used].sum(), (size[used] ** 2).sum()
        size /= np.sqrt((total**2 - squares) / (len(used) * (len(used) - 1)))
        still, moving = rng.standard_normal((2, len(size)))
        moment = (times - times.mean()) / np.ptp(times)
        phase = phase_deg * still + drift_deg * moment[:, None] * moving
        gains = size * np.exp(1j * np.deg2rad(phase))
        rows = np.arange(len(times))
        pair = gains[rows, first] * gains[rows, second].conj()
        data = main_table.getcol("DATA") * pair[:, None, None]
        main_table.putcol("DATA", data.astype(np.complex64))


def image(folder, ms, sky, *options):
    prefix = folder / GROUP
    wrong = np.random.default_rng(8).normal(1, 0.1, len(sky.flux_jy))  # catalogues are
    catalog = catalog_of(sky)
    catalog.assign(flux_jy=catalog.flux_jy * wrong).to_csv(folder / "catalog.csv", index=False)
    files = [str(ms), str(prefix), "--catalog", str(folder / "catalog.csv")]
    assert run_step("image", *files, *OPTIONS, *options) == 0
    return json.loads((folder / f"{GROUP}.image.fits.json").read_text())


def fluxes(folder, sky):
    """Return measured over true flux of the sources that no noise disturbs."""
    with photometry_images.open_planes(folder / f"{GROUP}.image.fits") as planes:
        options = PhotometryOptions(pb_limit=0.3, follow_offset=False)
        table = photometry.measure(planes[0], catalog_of(sky), options)
    table = table[(table.catalog_flux_jy > 0.3) & (table["flags"] == "")]
    return (table.flux_jy / table.catalog_flux_jy).to_numpy()


@pytest.fixture(scope="module")
def sky():
    return field()


@pytest.fixture(scope="module")
def perfect(sky, tmp_path_factory):
    ms = tmp_path_factory.mktemp("perfect") / f"{GROUP}.cal.ms"
    imaging_data.write_tile(ms, sky, n_antennas=N_ANTENNAS, n_channels=6, n_times=4, noise=True)
    return ms


def copied(ms, folder):
    import shutil

    target = folder / ms.name
    shutil.copytree(ms, target)
    shutil.copy(f"{ms}.json", f"{target}.json")
    return target


def test_errors_of_10_deg_and_5_per_cent_are_taken_out(perfect, sky, tmp_path):
    ms = copied(perfect, tmp_path)
    spoil(ms, amplitude=0.05, phase_deg=10.0, drift_deg=8.0)
    before = image(tmp_path, ms, sky, "--no-selfcal")["qa"]
    spoiled = fluxes(tmp_path, sky)
    after = image(tmp_path, ms, sky, *ROUNDS)["qa"]
    rounds = after["selfcal"]
    found = fluxes(tmp_path, sky)
    assert [r["accepted"] for r in rounds] == [True, True, True]
    assert rounds[0]["phase_scatter_deg"] == pytest.approx(10, abs=2.5)
    assert rounds[2]["amplitude_scatter"] == pytest.approx(0.05, abs=0.012)
    assert after["dynamic_range"] > 4 * before["dynamic_range"]
    assert after["residual_std_jy"] < before["residual_std_jy"] / 4
    assert after["rms_over_thermal"] < 1.4
    assert np.median(spoiled) < 0.975  # incoherent by exp(-sigma^2)
    assert np.median(found) == pytest.approx(1, abs=0.01)
    assert found == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_perfect_tile_gets_no_worse(perfect, sky, tmp_path):
    """Sources that drift through the beam leave a little that gains can take up."""
    plain = tmp_path / "plain"
    plain.mkdir()
    without = image(plain, perfect, sky, "--no-selfcal")["qa"]
    record = image(tmp_path, perfect, sky, *ROUNDS)["qa"]
    phases, *_, amplitudes = record["selfcal"]
    assert not phases["accepted"]
    assert amplitudes["amplitude_scatter"] < 0.01
    assert record["residual_std_jy"] < 1.0001 * without["residual_std_jy"]
    assert record["rms_jy"] < 1.0001 * without["rms_jy"]
    assert fluxes(tmp_path, sky) == pytest.approx(fluxes(plain, sky), rel=0.005)


def test_empty_field_is_left_alone(tmp_path):
    nothing = imaging_data.offsets_to_sky([0.2], [0.1], [1e-5])
    ms = tmp_path / f"{GROUP}.cal.ms"
    imaging_data.write_tile(ms, nothing, n_antennas=24, n_channels=2, n_times=2, noise=True)
    record = image(tmp_path, ms, nothing, *ROUNDS)
    assert not any(r["accepted"] for r in record["qa"]["selfcal"])
    assert record["verdict"] != "fail"
