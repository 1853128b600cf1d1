import numpy as np
import pytest

from dsa110_contimg.telescope.dsa110 import C_M_S
from dsa110_contimg.telescope.phasors import phasors


@pytest.mark.parametrize("n_chan", [1, 6, 32, 768])
def test_phases_are_those_of_the_paths(n_chan):
    freq = 1.31e9 + 244e3 * np.arange(n_chan)
    path = np.random.default_rng(1).uniform(-2500, 2500, (5, 3))
    truth = np.exp(2j * np.pi * freq[:, None, None] * path / C_M_S)
    found = phasors(path, freq)
    assert found.dtype == np.complex64
    assert found == pytest.approx(truth, abs=5e-6)
