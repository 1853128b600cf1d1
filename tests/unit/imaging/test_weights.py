import numpy as np
import pytest

from dsa110_contimg.core.errors import DataError
from dsa110_contimg.imaging.weights import weigh
from dsa110_contimg.ms.tile import read_tile
from dsa110_contimg.telescope import dsa110
from support import imaging_data

N_ANTENNAS, N_CHANNELS, N_TIMES = 10, 4, 3
GRID = {"size_px": 512, "cell_arcsec": 12.0, "uvmin_lambda": 0.0}


@pytest.fixture(scope="module")
def ms(tmp_path_factory):
    path = tmp_path_factory.mktemp("weighting") / "20260128T213600.cal.ms"
    return imaging_data.write_tile(
        path,
        imaging_data.offsets_to_sky([], [], []),
        n_antennas=N_ANTENNAS,
        n_channels=N_CHANNELS,
        n_times=N_TIMES,
    )


@pytest.fixture
def changed(ms, tmp_path):
    """Return a function that writes a copy of the set with columns changed by a function."""
    import shutil

    from casacore.tables import table

    def change(**columns):
        copy = tmp_path / ms.name
        shutil.copytree(ms, copy)
        with table(str(copy), ack=False, readonly=False) as main:
            for name, function in columns.items():
                main.putcol(name, function(main.getcol(name)))
        return read_tile(copy)

    return change


def radiometer():
    """Noise of an image of all data, by the formula of textbooks."""
    bandwidth = dsa110.N_SUBBANDS * dsa110.N_CHANNELS_SUBBAND * dsa110.CHANNEL_WIDTH_HZ
    pairs = N_ANTENNAS * (N_ANTENNAS - 1)
    return dsa110.SEFD_JY / np.sqrt(pairs * 2 * bandwidth * dsa110.TILE_S)


def test_description(ms):
    tile = read_tile(ms)
    ra, dec = imaging_data.tile_centre()
    assert (tile.ra_deg, tile.dec_deg) == pytest.approx((ra, dec), abs=1e-9)
    assert tile.start_mjd == pytest.approx(imaging_data.START_MJD, abs=1e-8)
    assert (tile.end_mjd - tile.start_mjd) * 86400 == pytest.approx(dsa110.TILE_S, abs=1e-3)
    assert tile.bandwidth_hz == pytest.approx(187.5e6)
    assert tile.column == "DATA"


def test_natural_noise_is_the_radiometer_equation(ms):
    found = weigh(read_tile(ms), robust=2.0, **GRID)
    assert found.thermal_natural_jy == pytest.approx(radiometer(), rel=1e-5)
    assert found.thermal_rms_jy == pytest.approx(radiometer(), rel=1e-2)
    assert found.n_visibilities == found.n_total == 45 * N_CHANNELS * N_TIMES
    assert found.flagged_fraction == 0


@pytest.mark.parametrize("robust", [-1.0, 0.0, 0.5])
def test_briggs_noise_by_brute_force(ms, robust):
    """Every visibility in a loop, one dictionary entry a uv cell."""
    from casacore.tables import table

    tile = read_tile(ms)
    with table(str(ms), ack=False) as main:
        uvw = main.getcol("UVW")
    cell_uv = 1 / (np.deg2rad(12.0 / 3600) * round(512 * 1.2))
    density, keys = {}, []
    for u, v, _ in uvw:
        for freq in tile.freq_hz:
            a, b = u * freq / dsa110.C_M_S, v * freq / dsa110.C_M_S
            if b < 0:
                a, b = -a, -b
            key = (int(np.floor(a / cell_uv)), int(np.floor(b / cell_uv)))
            density[key] = density.get(key, 0) + 1
            keys.append(key)
    f2 = (5 * 10**-robust) ** 2 * len(keys) / sum(d**2 for d in density.values())
    weights = np.array([1 / (1 + density[k] * f2) for k in keys])
    inflation = np.sqrt((weights**2).sum() * len(keys)) / weights.sum()
    found = weigh(tile, robust=robust, **GRID)
    assert inflation > 1.0005
    assert found.thermal_rms_jy == pytest.approx(radiometer() * inflation, rel=1e-4)
    by_channel = weights.reshape(-1, N_CHANNELS).sum(axis=0)
    assert found.freq_hz == pytest.approx((by_channel @ tile.freq_hz) / by_channel.sum(), rel=1e-9)
    assert found.weight.sum(axis=0) / found.weight.sum() == pytest.approx(
        by_channel / by_channel.sum(), rel=1e-5
    )


def test_uv_cut_leaves_out_short_baselines(ms):
    found = weigh(read_tile(ms), robust=2.0, **GRID | {"uvmin_lambda": 1000.0})
    assert 0 < found.n_visibilities < found.n_total
    kept = found.n_visibilities / found.n_total
    assert found.thermal_natural_jy == pytest.approx(radiometer() / np.sqrt(kept), rel=1e-5)


def test_flags_of_one_correlation_drop_both(changed):
    def flag(flags):
        flags[: len(flags) // 2, :, 1] = True
        return flags

    found = weigh(changed(FLAG=flag), robust=2.0, **GRID)
    assert found.flagged_fraction == pytest.approx(0.5, abs=0.01)
    assert found.thermal_natural_jy == pytest.approx(radiometer() * np.sqrt(2), rel=1e-2)
    assert found.weight[0].sum() == 0  # rows are in order of time


def test_weight_lost_by_flagging_before_averaging_is_lost_time(changed):
    def halve(weights):
        weights[: len(weights) // N_TIMES] /= 2
        return weights

    found = weigh(changed(WEIGHT_SPECTRUM=halve), robust=2.0, **GRID)
    assert found.thermal_natural_jy == pytest.approx(radiometer() / np.sqrt(2.5 / 3), rel=1e-3)


def test_gains_in_the_weights_do_not_change_the_noise_of_a_sample(changed):
    """Antennas of other gain have other weights but the same system noise."""

    def scale(weights):
        factor = np.tile(np.linspace(0.5, 2, 45), N_TIMES)
        return weights * factor[:, None, None].astype("f4")

    found = weigh(changed(WEIGHT_SPECTRUM=scale), robust=2.0, **GRID)
    assert found.thermal_natural_jy == pytest.approx(radiometer(), rel=1e-5)
    assert found.thermal_rms_jy > 1.03 * radiometer()  # for it is not weighted for least noise


def test_nothing_left(changed):
    found = weigh(changed(FLAG=lambda f: f | True), robust=0.5, **GRID)
    assert found.n_visibilities == 0
    assert found.flagged_fraction == 1
    assert np.isnan(found.thermal_rms_jy)


def test_not_a_measurement_set(tmp_path):
    with pytest.raises(DataError, match="not a usable Measurement Set"):
        read_tile(tmp_path / "absent.ms")
