import numpy as np
import pytest

from dsa110_contimg.calibration.plots import at_times, by_row, over_mean, plot_calibration
from dsa110_contimg.calibration.tables import Solution
from dsa110_contimg.core.times import DAY_S


def solution(n_antennas, n_chan, times=(61000.0,)):
    rng = np.random.default_rng(1)
    n = n_antennas * len(times)
    shape = (n, n_chan, 2)
    values = 1 + 0.1 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    return Solution(
        np.tile(np.arange(n_antennas), len(times)),
        np.repeat(times, n_antennas) * DAY_S,
        values,
        np.zeros(shape, bool),
        np.full(shape, 50.0),
    )


def test_gains_are_put_at_their_times():
    gains = solution(3, 1, (61000.0, 61000.1, 61000.2))
    gains.flags[4] = True  # antenna 1 at the second time
    found = at_times(gains, 1, np.array([61000.0, 61000.1, 61000.2]))
    assert np.isnan(found[1]).all()
    assert found[2].tolist() == gains.values[7, 0].tolist()


def test_rows_are_antennas_then_polarisations():
    values = np.arange(12).reshape(2, 3, 2)
    assert by_row(values).tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]


def test_over_mean_has_mean_amplitude_one():
    gains = np.array([[2.0, np.nan], [4.0, np.nan]], complex)
    assert over_mean(gains)[:, 0] == pytest.approx([2 / 3, 4 / 3])
    assert np.isnan(over_mean(gains)[:, 1]).all()


def test_figure_is_written_with_and_without_a_timeline(tmp_path):
    bandpass = solution(4, 32)
    bandpass.flags[2] = True  # an absent antenna
    freq = np.linspace(1.3e9, 1.5e9, 32)
    plot_calibration(tmp_path / "a.png", {"bcal": bandpass}, freq, "A")
    timeline = solution(4, 1, (61000.0, 61000.001))
    plot_calibration(tmp_path / "b.png", {"bcal": bandpass, "timeline": timeline}, freq, "B")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert a.startswith(b"\x89PNG")
    assert b.startswith(b"\x89PNG")
    assert a != b
