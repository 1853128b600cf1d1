import shutil

import numpy as np
import pytest

from dsa110_contimg.conversion import flagging
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import FlagStatistics
from dsa110_contimg.core.options import FlaggingOptions
from dsa110_contimg.core.sidecar import Sidecar
from support import synthetic_ms
from support.figures import example

RAW_JY = 0.0045  # raw units per Jy
NOISE = 2.6 * RAW_JY  # per visibility, per polarisation (rms of the complex value)


def complex_noise(rng, shape):
    return NOISE / np.sqrt(2) * (rng.normal(size=shape) + 1j * rng.normal(size=shape))


def test_bad_samples_are_zeros_nans_autos_and_absurd_amplitudes():
    data = np.full((3, 4, 2), 0.05 + 0.01j, np.complex64)
    data[0, 1, 0] = 0
    data[0, 2, 1] = np.nan
    data[1, 0, 0] = 0.6
    data[1, 3, 0] = np.inf
    bad, not_finite = flagging.flag_bad_samples(data, np.array([False, False, True]), 0.5)
    expected = np.zeros(data.shape, bool)
    expected[0, 1, 0] = expected[0, 2, 1] = expected[1, 0, 0] = expected[1, 3, 0] = True
    expected[2] = True
    assert (bad == expected).all()
    assert not_finite.sum() == 2


def test_clip_follows_each_baseline_and_only_the_upper_side():
    rng = np.random.default_rng(3)
    data = complex_noise(rng, (24, 3, 96, 2))
    data[:, 1] *= 20  # a noisy baseline is not interference
    data[5, 0, 10, 0] = 12 * NOISE
    data[7, 1, 20, 1] = 20 * 12 * NOISE
    data[8, 0, 30, 0] = 1e-9  # low side
    flags = np.zeros(data.shape, bool)
    flags[:, 2] = True
    data[:, 2] = 1e3
    found = flagging.flag_high_amplitudes(data, flags, 7.0)
    assert sorted(map(tuple, np.argwhere(found).tolist())) == [(5, 0, 10, 0), (7, 1, 20, 1)]


def test_clip_limit_is_median_plus_scaled_mad():
    rng = np.random.default_rng(4)
    data = np.abs(rng.normal(10, 1, (24, 1, 128, 1))).astype(complex)
    amplitude = np.abs(data).ravel()
    centre = np.median(amplitude)
    limit = centre + 2.5 * 1.4826 * np.median(np.abs(amplitude - centre))
    found = flagging.flag_high_amplitudes(data, np.zeros(data.shape, bool), 2.5)
    assert abs(found.sum() - (amplitude > limit).sum()) <= 2


def test_extension_fills_single_gaps_and_joins_polarisations():
    flags = np.zeros((5, 1, 8, 2), bool)
    flags[2, 0, 3, 0] = flags[2, 0, 5, 1] = True  # a gap at channel 4
    flags[0, 0, 0, 0] = flags[2, 0, 0, 0] = True  # a gap at time 1
    extended = flagging.extend_flags(flags)
    expected = {(2, 3), (2, 4), (2, 5), (0, 0), (1, 0), (2, 0)}
    for p in range(2):
        assert set(map(tuple, np.argwhere(extended[:, 0, :, p]).tolist())) == expected


def baselines(n):
    return np.array([(a, b) for a in range(n) for b in range(a, n)]).T


def test_dead_antenna_does_not_take_its_partners_along():
    a1, a2 = baselines(5)
    flagged = np.zeros((len(a1), 10))
    flagged[a1 == a2] = 1
    flagged[:, 7:] = 1  # absent subband
    flagged[(a1 == 3) | (a2 == 3)] = 1
    assert flagging.find_dead_antennas(flagged, a1, a2, 0.95) == [3]
    assert flagging.find_dead_antennas(np.ones_like(flagged), a1, a2, 0.95) == [0, 1, 2, 3, 4]


def test_statistics_tell_raw_from_effective():
    a1, a2 = baselines(4)
    count = np.zeros((len(a1), 10, 2), int)
    count[a1 == a2] = 24
    count[(a1 == 0) | (a2 == 0)] = 24  # absent: 3 of 6 cross baselines
    count[:, 9] = 24  # absent channel
    count[(a1 == 1) & (a2 == 2), 4, 1] = 12
    result = flagging.flag_statistics(
        count, 24, a1, a2, np.full(len(a1), 100.0), list("ABCD"), ["XX", "YY"]
    )
    assert result.absent_antennas == ["A"]
    assert result.absent_channels == 1
    # 3 baselines x 9 channels x 2 polarisations remain, half of one of those samples flagged
    assert result.flagged_fraction_effective == pytest.approx(0.5 / 54, abs=1e-5)
    assert result.flagged_fraction == pytest.approx((60 + 6 + 0.5) / 120, abs=1e-5)
    assert result.by_antenna == {
        "B": pytest.approx(0.5 / 36, abs=1e-5),
        "C": pytest.approx(0.5 / 36, abs=1e-5),
        "D": 0.0,
    }
    assert result.by_polarization == {"XX": 0.0, "YY": pytest.approx(0.5 / 27, abs=1e-5)}
    assert result.by_channel[9] == 1.0
    assert result.by_channel[4] == pytest.approx(0.5 / 6, abs=1e-5)
    assert list(result.by_baseline_length) == ["50-200 m"]
    # antenna B meets C and D: 2 baselines x 2 polarisations
    expected = [0] * 4 + [12] + [0] * 4 + [100]
    assert result.percent_by_antenna_block["B"] == expected


def test_blocks_of_channels_are_means_that_cover_the_band():
    fraction = np.repeat(np.arange(768)[None, :, None] / 768, 2, axis=2)
    blocks = flagging._percent_in_blocks(fraction)
    assert blocks == [round(100 * (16 * k + 7.5) / 768) for k in range(48)]


@pytest.mark.parametrize(
    ("raw", "effective", "verdict"),
    [(0.2, 0.1, "pass"), (0.4, 0.35, "warn"), (0.6, 0.55, "fail"), (0.95, 0.0, "fail")],
)
def test_verdict_of_flags(raw, effective, verdict):
    sidecar = Sidecar("convert")
    statistics = example(FlagStatistics, flagged_fraction=raw, flagged_fraction_effective=effective)
    flagging.judge_flags(statistics, sidecar)
    assert sidecar.verdict == verdict
    assert bool(sidecar.reasons) == (verdict != "pass")


@pytest.fixture(scope="module")
def contaminated(tmp_path_factory):
    """A set of noise and a strong source, an antenna without data, NaN, and interference.

    Returns path and masks: samples above 5 sigma of interference, and samples that are clean.
    """
    uvd = synthetic_ms.blank(8, 96)
    rng = np.random.default_rng(1)
    shape = (24, uvd.Nbls, 96, 2)
    data = complex_noise(rng, shape) + 10 * RAW_JY
    rfi = np.zeros(shape, complex)
    rfi[:, :, 40, :] = 8 * NOISE  # narrow and steady
    rfi[11, :, 50:90, :] = 6 * NOISE  # a burst
    rfi[3:8, ::3, 20:24, :] = 10 * NOISE  # some baselines
    data += rfi * np.exp(2j * np.pi * rng.random(shape))
    data[-1, :, :, 1] = np.nan
    data = data.reshape(uvd.data_array.shape)
    dead = uvd.telescope.antenna_numbers[2]
    of_dead = (uvd.ant_1_array == dead) | (uvd.ant_2_array == dead)
    data[of_dead] = 0
    uvd.data_array[:] = data
    path = synthetic_ms.write(uvd, tmp_path_factory.mktemp("ms") / "tile.ms")
    usable = (~of_dead & (uvd.ant_1_array != uvd.ant_2_array)).reshape(24, -1)
    usable = np.broadcast_to(usable[:, :, None, None], shape).copy()
    usable[-1] = False
    return path, usable & (rfi > 5 * NOISE), usable & (rfi == 0), uvd.telescope.antenna_names[2]


@pytest.mark.parametrize("engine", ["aoflagger", "casa"])
def test_interference_is_found_and_clean_data_kept(contaminated, tmp_path, engine):
    from casacore.tables import table

    path, rfi, clean, dead = contaminated
    ms = tmp_path / "tile.ms"
    shutil.copytree(path, ms)
    sidecar = Sidecar("convert")
    result = flagging.flag_ms(ms, FlaggingOptions(engine=engine), sidecar)
    with table(str(ms), ack=False) as t:
        flags = t.getcol("FLAG").reshape(rfi.shape)
        assert np.isfinite(t.getcol("DATA")).all()
    assert result.dead_antennas == [dead]
    assert result.absent_antennas == [dead]
    assert result.not_finite > 0
    assert sidecar.commands
    assert flags[rfi].mean() > 0.95
    assert flags[clean].mean() < 0.02
    count = flags.sum(axis=0)
    assert flags[:, :, 40].all()
    assert result.by_channel[40] == 1.0
    assert count.shape[1] == len(result.by_channel)


def test_all_flagged_is_a_state(tmp_path):
    uvd = synthetic_ms.blank(3, 8, 2)
    sidecar = Sidecar("convert")
    result = flagging.flag_ms(
        synthetic_ms.write(uvd, tmp_path / "a.ms"), FlaggingOptions(), sidecar
    )
    assert sidecar.verdict == "fail"
    assert result.flagged_fraction_effective == 1.0
    assert len(result.dead_antennas) == 3


@pytest.mark.parametrize(("n_channels", "n_times"), [(1, 1), (5, 2), (48, 24)])
def test_strategy_copes_with_small_sets(tmp_path, n_channels, n_times):
    uvd = synthetic_ms.blank(3, n_channels, n_times)
    rng = np.random.default_rng(2)
    uvd.data_array[:] = complex_noise(rng, uvd.data_array.shape) + RAW_JY
    ms = synthetic_ms.write(uvd, tmp_path / "a.ms")
    result = flagging.flag_ms(ms, FlaggingOptions(), Sidecar("convert"))
    assert result.flagged_fraction_effective < 0.1


def test_irregular_rows_are_an_error(tmp_path):
    from casacore.tables import table

    ms = synthetic_ms.write(synthetic_ms.blank(3, 4, 2), tmp_path / "a.ms")
    with table(str(ms), readonly=False, ack=False) as t:
        t.putcell("ANTENNA1", 3, 77)
    with pytest.raises(DataError, match="times x baselines"):
        flagging.flag_ms(ms, FlaggingOptions(), Sidecar("convert"))
