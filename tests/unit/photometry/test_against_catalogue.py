import re

import numpy as np
import pandas as pd
import pytest

from dsa110_contimg.core.figures import CatalogCheck, ImageFigures
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.photometry.against_catalogue import check, combine_pointing, fit_pointing
from dsa110_contimg.reports.judge import judge_night
from dsa110_contimg.telescope.beam import TileBeam
from support.figures import example

RA0, DEC0 = 359.8, 33.0  # the field straddles RA 0


@pytest.fixture(scope="module")
def beam():
    ra = RA0 + np.linspace(-0.62, 0.62, 12)
    return TileBeam(ra, np.full(12, DEC0), np.linspace(1.32e9, 1.49e9, 8), np.ones((12, 8)))


def photometry(beam, offset=(0.0, 0.0), scale=1.0, scatter=0.02, n=80, seed=5):
    """Fluxes corrected with `beam` of sources that were seen through a beam moved by `offset`."""
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-1.6, 1.6, n), rng.uniform(-1.6, 1.6, n)
    dec = DEC0 + north
    ra = (RA0 + east / np.cos(np.deg2rad(dec))) % 360
    moved = TileBeam(
        beam.ra_deg + offset[0] / np.cos(np.deg2rad(DEC0)),
        beam.dec_deg + offset[1],
        beam.freq_hz,
        beam.weights,
    )
    flux = rng.uniform(0.05, 0.5, n)
    pb = beam.response(ra, dec)
    seen = flux * moved.response(ra, dec) / pb * scale * rng.normal(1, scatter, n)
    rms = 5e-4 / pb
    table = pd.DataFrame(
        {
            "ra_deg": ra,
            "dec_deg": dec,
            "flux_jy": seen,
            "flux_err_jy": rms,
            "local_rms_jy": rms,
            "catalog_flux_jy": flux,
            "snr": seen / rms,
            "pb": pb,
            "flags": "",
            "shift_ra_deg": rng.normal(1.0, 0.2, n) / 3600,
            "shift_dec_deg": rng.normal(-0.5, 0.2, n) / 3600,
        }
    )
    return table[pb > 0.2]


def test_good_pointing_has_no_offset(beam):
    fit = fit_pointing(photometry(beam), beam)
    assert fit.offset_deg < 0.03
    assert fit.significance < 3
    assert fit.flux_scale == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("offset", [(0.0, 0.23), (0.0, -0.23), (0.23, 0.0), (-0.15, 0.17)])
def test_pointing_error_is_found_with_its_direction(beam, offset):
    fit = fit_pointing(photometry(beam, offset, scatter=0.1), beam)
    assert fit.east_deg == pytest.approx(offset[0], abs=0.05)
    assert fit.north_deg == pytest.approx(offset[1], abs=0.05)
    assert fit.significance > 5
    angle = np.rad2deg(np.arctan2(*offset))
    assert (fit.position_angle_deg - angle + 180) % 360 - 180 == pytest.approx(0, abs=15)
    # Beam moved north: sources in the north come out too bright.
    assert np.sign(fit.slope_north_per_deg) == np.sign(offset[1]) or offset[1] == 0


def test_median_ratio_hides_a_pointing_error_and_shows_a_scale_error(beam):
    hidden = check(photometry(beam, (0.0, 0.23)), beam)
    assert hidden.flux_ratio == pytest.approx(1, abs=0.06)
    assert hidden.pointing_offset.offset_deg > 0.18
    scaled = check(photometry(beam, scale=0.8), beam)
    assert scaled.flux_ratio == pytest.approx(0.8, abs=0.01)
    assert scaled.pointing_offset.flux_scale == pytest.approx(0.8, abs=0.01)


def test_outliers_do_not_move_the_fit(beam):
    table = photometry(beam)
    table.iloc[:5, table.columns.get_loc("flux_jy")] *= 4  # variable sources
    assert fit_pointing(table, beam).offset_deg < 0.06


def test_errors_cover_the_truth(beam):
    """Offsets in units of their errors scatter like a normal variable, not wider."""
    pulls = []
    for seed in range(40):
        fit = fit_pointing(photometry(beam, (0.1, -0.1), scatter=0.1, seed=seed), beam)
        pulls.append((fit.north_deg + 0.1) / fit.north_error_deg)
    assert abs(np.mean(pulls)) < 0.6
    assert 0.5 < np.std(pulls) < 1.5


def test_tiles_combine_to_a_better_offset(beam):
    fits = [
        fit_pointing(photometry(beam, (0.0, 0.23), scatter=0.15, n=30, seed=s), beam)
        for s in range(6)
    ]
    night = combine_pointing([*fits, None])
    assert night["n_tiles"] == 6
    assert night["north_error_deg"] < min(f.north_error_deg for f in fits)
    assert night["north_deg"] == pytest.approx(0.23, abs=4 * night["north_error_deg"])
    assert combine_pointing([None]) is None


def test_astrometry_and_completeness(beam):
    table = photometry(beam)
    figures = check(table, beam)
    assert figures.astrometry.ra_offset_arcsec == pytest.approx(1.0, abs=0.1)
    assert figures.astrometry.dec_offset_arcsec == pytest.approx(-0.5, abs=0.1)
    assert figures.completeness == 1
    table.iloc[: len(table) // 4, table.columns.get_loc("snr")] = 2.0
    lost = check(table, beam).completeness
    assert lost == pytest.approx(1 - (len(table) // 4) / len(table))


def test_few_sources_say_nothing(beam):
    figures = check(photometry(beam).head(2), beam)
    assert figures.flux_ratio is None
    assert figures.pointing_offset is None
    assert check(photometry(beam).head(0), beam).completeness is None


# --- a night --------------------------------------------------------------------------------------


def night_of(folder, beam, offset, n_tiles=8):
    """Write the sidecars of a night of tiles; fluxes scatter by 15 % about the catalogue's."""
    night = folder / "nights" / "2026-02-03"
    for k in range(n_tiles):
        group = f"20260203T00{5 * k:02d}00"
        table = photometry(beam, offset, scatter=0.15, n=40, seed=k)
        found = example(CatalogCheck, pointing_offset=fit_pointing(table, beam))
        sidecar = Sidecar("image", figures=example(ImageFigures, catalog=found))
        (night / "groups" / group).mkdir(parents=True)
        sidecar.write(night / "groups" / group / f"{group}.image.fits")
    return night


@pytest.mark.parametrize(
    ("offset", "words"), [((0.0, 0.23), "0.2. deg north"), ((-0.23, 0.0), "0.2. deg west")]
)
def test_night_reports_a_pointing_error_with_its_direction(tmp_path, beam, offset, words):
    judged = judge_night(night_of(tmp_path, beam, offset))
    found = judged["pointing"]
    assert found["n_tiles"] == 8
    assert (found["east_deg"], found["north_deg"]) == pytest.approx(offset, abs=0.03)
    (reason,) = (text for text in judged["reasons"] if text.startswith("beams are mispointed"))
    assert re.search(words, reason)


def test_night_of_good_pointing_reports_none(tmp_path, beam):
    judged = judge_night(night_of(tmp_path, beam, (0.0, 0.0)))
    assert judged["pointing"]["offset_deg"] < 0.03
    assert not any("mispointed" in reason for reason in judged["reasons"])


def test_night_without_images_says_nothing_of_pointing(tmp_path):
    (tmp_path / "nights" / "2026-02-03" / "groups").mkdir(parents=True)
    assert judge_night(tmp_path / "nights" / "2026-02-03")["pointing"] is None
