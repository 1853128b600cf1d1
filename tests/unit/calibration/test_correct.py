"""Correction and averaging of rows against sums written out one by one."""

import numpy as np
import pytest

from dsa110_contimg.calibration.correct import Corrector
from dsa110_contimg.calibration.tables import Calibration

FREQ = 1.4e9 + 250e3 * np.arange(12)
TIMES = 5e9 + 13.0 * np.arange(4)
N_ANTENNAS = 5


@pytest.fixture
def calibration():
    rng = np.random.default_rng(3)

    def factors(*shape):
        return rng.uniform(0.5, 2, shape) * np.exp(2j * np.pi * rng.random(shape))

    delay_s = rng.normal(0, 2e-9, (N_ANTENNAS, 2))
    bandpass, gain = factors(N_ANTENNAS, 12, 2), factors(4, N_ANTENNAS, 2)
    gain[:, 3] = np.nan  # an antenna without solution
    bandpass[4, 7, 1] = 0  # nor is this one
    return Calibration(delay_s, FREQ[5], bandpass, FREQ, gain, TIMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spectrum", [False, True])
def test_rows_are_divided_by_the_factors_and_averaged(calibration, channels, spectrum):
    rng = np.random.default_rng(4)
    one, two = np.triu_indices(N_ANTENNAS, 1)
    when = np.repeat([0, 1, 2, 3], len(one))
    one, two = np.tile(one, 4), np.tile(two, 4)
    shape = (len(one), 12, 2)
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    flags = rng.random(shape) < 0.3
    weights = rng.uniform(1, 2, shape if spectrum else (len(one), 2)).astype(np.float32)
    found = Corrector(calibration, FREQ, TIMES, channels).correct(
        data, flags, weights, when, one, two
    )

    for row, average, p in np.ndindex(len(one), 12 // channels, 2):
        a, b, t = one[row], two[row], when[row]
        values, shares = [], []
        for c in range(average * channels, (average + 1) * channels):
            turn = [
                np.exp(2j * np.pi * calibration.delay_s[i, p] * (FREQ[c] - FREQ[5])) for i in (a, b)
            ]
            j1 = calibration.gain[t, a, p] * calibration.bandpass[a, c, p] * turn[0]
            j2 = calibration.gain[t, b, p] * calibration.bandpass[b, c, p] * turn[1]
            if flags[row, c, p] or 3 in (a, b) or j1 * j2 == 0:
                continue
            values.append(data[row, c, p] / (j1 * np.conj(j2)))
            shares.append(weights[row, c, p] if spectrum else weights[row, p])
        assert found.flags[row, average, p] == (not values)
        if not values:
            assert found.weights[row, average, p] == found.data[row, average, p] == 0
            continue
        power = np.prod([np.mean(np.abs(calibration.bandpass[i, :, p]) ** 2) for i in (a, b)])
        gain = np.prod([np.abs(calibration.gain[t, i, p]) ** 2 for i in (a, b)])
        assert found.data[row, average, p] == pytest.approx(
            np.average(values, weights=shares), rel=1e-4, abs=1e-5
        )
        assert found.weights[row, average, p] == pytest.approx(np.sum(shares) * power * gain, 1e-5)


def test_between_calibration_amplitude_and_phase_are_interpolated():
    """Over a flagged solution, across the branch cut, and held beyond both ends."""
    phase = np.deg2rad([150.0, 170.0, 0.0, 210.0])  # the third is flagged
    gain = np.array([1.0, 2.0, 9.0, 4.0]) * np.exp(1j * phase)
    gain[2] = np.nan
    one = np.ones((1, 1))
    solved = Calibration(one * 0, 1e9, one[..., None] + 0j, FREQ[:1], gain[:, None, None], TIMES)
    found = solved.at_times(TIMES[[0, 1, 3]] + [-99.0, 13.0, 99.0])[:, 0, 0]
    assert np.abs(found) == pytest.approx([1, 3, 4])
    assert np.rad2deg(np.angle(found)) % 360 == pytest.approx([150, 190, 210])
