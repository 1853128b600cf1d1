import numpy as np
import pytest

from dsa110_contimg.maps.restore import fit_beam, restore

CELL = 6.0


def gaussian(shape, beam_deg, row, column):
    """Gaussian of unit peak by its definition, on pixels with RA to the left."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    east, north = -(x - column) * CELL / 3600, (y - row) * CELL / 3600
    major, minor, angle = beam_deg[0], beam_deg[1], np.deg2rad(beam_deg[2])
    along = east * np.sin(angle) + north * np.cos(angle)
    across = east * np.cos(angle) - north * np.sin(angle)
    return np.exp(-4 * np.log(2) * ((along / major) ** 2 + (across / minor) ** 2))


@pytest.mark.parametrize("pa", [0.0, 30.0, 90.0, 150.0])
def test_fit_returns_the_gaussian_it_is_given(pa):
    beam = (40 / 3600, 20 / 3600, pa)
    found = fit_beam(gaussian((256, 256), beam, 128, 128), CELL)
    assert found[0] == pytest.approx(beam[0], rel=2e-3)
    assert found[1] == pytest.approx(beam[1], rel=2e-3)
    assert (found[2] - pa + 90) % 180 - 90 == pytest.approx(0, abs=0.1)


def test_fit_is_of_the_core_not_the_shoulders():
    core, shoulders = (36 / 3600, 18 / 3600, 90.0), (200 / 3600, 150 / 3600, 90.0)
    psf = 0.7 * gaussian((256, 256), core, 128, 128) + 0.3 * gaussian(
        (256, 256), shoulders, 128, 128
    )
    found = fit_beam(psf, CELL)
    assert found[1] * 3600 == pytest.approx(22, abs=2)  # a plain fit to all of it gives 40


def test_fit_needs_a_peak():
    assert fit_beam(np.zeros((64, 64)), CELL) is None
    assert fit_beam(np.full((64, 64), np.nan), CELL) is None
    assert fit_beam(np.ones((64, 64)), CELL) is None


def test_restore_is_the_sum_of_gaussians():
    beam = (40 / 3600, 24 / 3600, 60.0)  # wide enough that its transform ends before the grid's
    model = np.zeros((128, 160))
    model[40, 50], model[41, 50], model[90, 3] = 2.0, -0.5, 1.0  # one near an edge
    residual = np.random.default_rng(1).normal(0, 0.01, model.shape)
    expected = residual + sum(
        model[r, c] * gaussian(model.shape, beam, r, c)
        for r, c in zip(*np.nonzero(model), strict=True)
    )
    assert np.abs(restore(model, residual, beam, CELL) - expected).max() < 2e-6


def test_empty_model_leaves_the_residual():
    residual = np.arange(16.0, dtype=np.float32).reshape(4, 4)
    assert np.array_equal(restore(np.zeros((4, 4)), residual, (0.01, 0.01, 0.0), CELL), residual)
