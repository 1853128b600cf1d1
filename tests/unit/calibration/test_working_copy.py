import numpy as np
import pandas as pd
import pytest

from dsa110_contimg.calibration import field_model, working_copy
from dsa110_contimg.catalogs import calibrators
from dsa110_contimg.telescope import dsa110
from dsa110_contimg.telescope.beam import TileBeam, airy_power, separation_rad

FREQ = np.linspace(1.31e9, 1.49e9, 70)


def baselines(n):
    return np.array([(a, b) for a in range(n) for b in range(a, n)]).T


def test_prediction_is_the_explicit_sum():
    rng = np.random.default_rng(1)
    uvw = rng.normal(0, 900, (5, 3))
    offsets = rng.normal(0, 0.02, (3, 3))
    amplitude = rng.uniform(0.1, 10, (3, len(FREQ)))
    model = field_model.predict(uvw, offsets, amplitude, FREQ)
    for a, b in [(0, 1), (3, 2), (4, 4)]:
        expected = sum(
            amplitude[s]
            * np.exp(2j * np.pi * FREQ / dsa110.C_M_S * ((uvw[b] - uvw[a]) @ offsets[s]))
            for s in range(3)
        )
        assert np.abs(model[:, a, b] - expected).max() < 2e-5 * amplitude.sum(axis=0).max()


def test_antenna_uvw_reproduces_baselines():
    rng = np.random.default_rng(2)
    positions = rng.normal(0, 900, (7, 3))
    a, b = baselines(7)
    uvw = positions[b] - positions[a]
    found = field_model.antenna_uvw(uvw, a, b, 9)
    assert np.abs(found[b] - found[a] - uvw).max() < 1e-6
    assert (found[7:] == 0).all()


def test_offsets_are_those_of_the_apparent_sky():
    """Against astropy: delays of real baselines to real directions, at a real time."""
    from dsa110_contimg.simulation.season import apparent_directions

    mjd, ra0, dec0 = 61074.0275, 24.4737, 33.1647
    ra, dec = np.array([25.4, 23.6, 24.4737]), np.array([34.0, 32.4, 33.1647])
    offsets = field_model.direction_offsets(ra, dec, ra0, dec0, mjd)
    assert np.abs(offsets[2]).max() < 1e-12
    # Components along the apparent north and east, turned by an angle that is common to all: the
    # lengths and the angles between them are free of it.
    ha, delta = apparent_directions(np.append(ra, ra0), np.append(dec, dec0), mjd)
    d_ra = ha[3] - ha
    east = np.cos(delta) * np.sin(d_ra)
    north = np.sin(delta) * np.cos(delta[3]) - np.cos(delta) * np.sin(delta[3]) * np.cos(d_ra)
    apparent = (north + 1j * east)[:2]
    ours = (offsets[:, 1] + 1j * offsets[:, 0])[:2]
    turn = ours / apparent
    assert np.abs(np.abs(turn) - 1).max() < 1e-6  # naive ICRS offsets differ by 1e-4
    assert abs(np.angle(turn[0] / turn[1])) < 1e-6
    # The turn is that between the norths: a source due ICRS north stays north.
    north_of = field_model.direction_offsets([ra0], [dec0 + 0.05], ra0, dec0, mjd)[0]
    assert abs(north_of[0] / north_of[1]) < 3e-6
    naive = np.hypot(
        np.cos(np.deg2rad(dec)) * np.sin(np.deg2rad(ra - ra0)), np.deg2rad(dec - dec0)
    )[:2]
    assert np.abs(np.abs(ours) / naive - 1).max() < 1e-2


def tile_beam(ra=24.4, dec=33.16):
    pointings = ra + np.linspace(-0.6, 0.6, 24)
    return TileBeam(pointings, np.full(24, dec), FREQ, np.ones((24, len(FREQ))))


def catalog(*rows):
    return pd.DataFrame(rows, columns=["name", "ra_deg", "dec_deg", "flux_jy", "alpha"])


def test_field_model_takes_neighbours_by_apparent_flux():
    calibrator = calibrators.find_calibrator("3C48")
    beam = tile_beam()
    table = catalog(
        ("3C48 again", calibrator.ra_deg + 0.003, calibrator.dec_deg, 15.0, -0.7),
        ("near", 24.9, 33.5, 1.0, -0.7),
        ("bright but far", 24.4, 38.0, 10.0, -0.7),
        ("faint", 24.0, 33.0, 0.001, -0.7),
        ("elsewhere", 120.0, 33.0, 50.0, -0.7),
    )
    model = field_model.field_model(calibrator, table, beam)
    assert model.names[:2] == ["3C48", "near"]
    assert "3C48 again" not in model.names
    assert "faint" not in model.names
    assert "elsewhere" not in model.names
    assert model.flux_jy[0] == pytest.approx(calibrator.flux(FREQ))
    assert model.flux_jy[1] == pytest.approx((FREQ / 1.4e9) ** -0.7)

    def apparent(ra, dec, flux):
        response = [
            airy_power(separation_rad(r, d, ra, dec), FREQ)
            for r, d in zip(beam.ra_deg, beam.dec_deg, strict=True)
        ]
        return np.mean(response) * np.mean(flux)

    own = apparent(calibrator.ra_deg, calibrator.dec_deg, calibrator.flux(FREQ))
    others = sum(apparent(r.ra_deg, r.dec_deg, r.flux_jy) for r in table.iloc[1:].itertuples())
    assert model.apparent_jy == pytest.approx(own, rel=5e-3)
    assert model.share == pytest.approx(own / (own + others), rel=5e-3)


def test_field_model_without_a_catalogue_is_the_calibrator_alone():
    model = field_model.field_model(calibrators.find_calibrator("3C48"), None, tile_beam())
    assert model.names == ["3C48"]
    assert model.share == 1.0


def test_noise_is_measured_despite_interference_and_source():
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.02, (240, 4000, 2)) + 1j * rng.normal(0, 0.02, (240, 4000, 2))
    data = noise + 3 * np.exp(0.001j * np.arange(4000))[:, None]
    data[:, 100:160] += 50
    good = np.ones(data.shape, bool)
    good[1, :, 0] = False
    variance = working_copy._noise_variance(data, good)
    assert np.isnan(variance[1, 0])
    assert np.isfinite(variance).sum() == 479
    # 96 pairs a row: 15 per cent of variance each, 0.7 per cent together
    assert np.nanmean(variance) == pytest.approx(0.02**2, rel=0.05)


def test_weights_are_inverse_variances_of_the_averages():
    count = np.array([[4.0], [2.0], [4.0]])
    variance = np.array([[0.5], [0.5], [np.nan]])
    assert working_copy._weights(count, variance).tolist() == [[8.0], [4.0], [0.0]]
    assert working_copy._weights(count, np.full((3, 1), np.nan)).tolist() == count.tolist()


@pytest.mark.parametrize(
    ("n_chan", "wanted", "merged"), [(768, 4, 4), (64, 4, 4), (96, 4, 1), (8, 4, 1)]
)
def test_channels_are_merged_within_subbands_only(n_chan, wanted, merged):
    assert working_copy._merged(np.arange(n_chan), wanted) == merged
