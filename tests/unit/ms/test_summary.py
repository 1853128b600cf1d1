"""The summary of calibrated data says what a direct look at all of them says."""

import numpy as np
import pytest

from dsa110_contimg.ms import summary as visibility_summary
from support import synthetic_ms


def test_percentiles_in_bins_are_those_of_numpy():
    rng = np.random.default_rng(5)
    bins = rng.integers(0, 7, 4000)
    data = (rng.normal(3, 1, (4000, 2)) + 1j * rng.normal(0, 1, (4000, 2))).astype(np.complex64)
    data[rng.random(data.shape) < 0.2] = np.nan
    data[bins == 4] = np.nan
    found = visibility_summary.summarise(data, bins, 8, ["XX", "YY"])
    for b in range(8):
        part = data[bins == b]
        for quantity, values in (
            ("amplitude_jy", np.abs(part)),
            ("phase_deg", np.degrees(np.angle(part))),  # a mean direction near 0: nothing wraps
        ):
            row = {name: column[b] for name, column in found[quantity].items()}
            if b in (4, 7):
                assert set(row.values()) == {None}
                continue
            expected = dict(zip(("low", "high"), np.nanpercentile(values, [16, 84]), strict=True))
            expected |= dict(zip(("XX", "YY"), np.nanmedian(values, axis=0), strict=True))
            assert row == pytest.approx(expected, rel=1e-3, abs=0.05), (b, quantity)


def test_phases_near_the_branch_cut_are_not_torn():
    rng = np.random.default_rng(6)
    phase = np.radians(180 + rng.normal(0, 8, (3000, 1)))
    found = visibility_summary.summarise(np.exp(1j * phase), np.zeros(3000, int), 1, ["XX"])[
        "phase_deg"
    ]
    middle = found["XX"][0]
    assert abs(abs(middle) - 180) < 1
    assert found["high"][0] - middle == pytest.approx(8, abs=0.7)
    assert middle - found["low"][0] == pytest.approx(8, abs=0.7)


@pytest.mark.parametrize(("rows", "wanted", "baselines"), [(109440, 781, 4560), (90, 900, 9)])
def test_the_sample_takes_all_baselines_in_turn(rows, wanted, baselines):
    step = visibility_summary._step(rows, wanted, baselines)
    taken = np.arange(0, rows, step)
    assert len(taken) > 0.9 * min(rows, wanted)
    counts = np.bincount(taken % baselines, minlength=baselines)
    assert counts.max() - counts.min() <= 1


def test_a_set_is_summarised_along_frequency_time_length_and_antenna(tmp_path):
    """A source at the centre, with a slope in frequency, a fade in time and one antenna off."""
    uvd = synthetic_ms.blank(6, 16, 8)
    rows = uvd.data_array.reshape(8, uvd.Nbls, 16, 2)
    freq_hz, fade = uvd.freq_array, np.linspace(2, 1, 8)
    rows[:] = (fade[:, None] * (freq_hz / freq_hz[0]) ** 5)[:, None, :, None]
    rows[..., 1] *= 1.5
    numbers = np.unique(uvd.ant_1_array)
    turn = np.deg2rad(30)
    one, two = (a.reshape(8, uvd.Nbls) == numbers[2] for a in (uvd.ant_1_array, uvd.ant_2_array))
    rows *= np.exp(1j * turn * (one.astype(float) - two))[..., None, None]
    rows[:, (uvd.ant_1_array == uvd.ant_2_array)[: uvd.Nbls]] = np.nan
    uvd.flag_array = np.isnan(uvd.data_array)
    uvd.flag_array.reshape(rows.shape)[:, :, 3] = True
    path = synthetic_ms.write(uvd, tmp_path / "a.ms")
    found = visibility_summary.summarise_ms(path)
    frequency, time = found.frequency, found.time
    assert frequency.freq_hz == pytest.approx(freq_hz)
    xx, yy = frequency.amplitude_jy["XX"], frequency.amplitude_jy["YY"]
    assert xx[3] is yy[3] is None
    assert xx[15] / xx[0] == pytest.approx((freq_hz[15] / freq_hz[0]) ** 5, rel=1e-3)
    assert yy[0] / xx[0] == pytest.approx(1.5, rel=1e-3)
    assert np.divide(time.amplitude_jy["XX"], time.amplitude_jy["XX"][0]) == pytest.approx(
        fade / 2, rel=1e-3
    )
    assert np.diff(time.time_mjd) * 86400 == pytest.approx(12.885, abs=1e-3)
    antenna = found.antenna
    assert antenna.names == [str(n + 1) for n in numbers]
    signs = np.array(antenna.phase_deg["XX"])
    assert abs(signs[2]) == pytest.approx(30, abs=0.1)  # the one antenna, against all others
    assert np.abs(np.delete(signs, 2)).max() < 1e-3
    length = np.hypot(*uvd.uvw_array[:, :2].T)[uvd.ant_1_array != uvd.ant_2_array]
    filled = [
        m
        for m, a in zip(*(found.length.length_m, found.length.amplitude_jy["XX"]), strict=True)
        if a is not None
    ]
    assert min(filled) == pytest.approx(length.min(), rel=0.2)
    assert max(filled) == pytest.approx(length.max(), rel=0.2)
