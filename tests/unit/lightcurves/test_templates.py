import numpy as np
import pytest
from scipy import stats

from dsa110_contimg.core.options import LightcurveOptions
from dsa110_contimg.lightcurves import templates
from dsa110_contimg.lightcurves.variability import candidates
from support import season


def test_lens_conserves_flux_and_dims_its_axis():
    for strength in (2.0, 20.0):
        u = np.linspace(-10 - strength, 10 + strength, 80001)
        gain = templates.gaussian_lens(u, strength, 0.3)
        assert np.mean(gain - 1) == pytest.approx(0, abs=1e-4)
        # On the axis a point source is dimmed to 1 / (1 + alpha).
        sharp = templates.gaussian_lens(np.array([0.0]), strength, 0.1)
        assert sharp[0] == pytest.approx(1 / (1 + strength), rel=0.02)
        assert gain.max() > 1.3  # caustics beside it


def test_score_is_the_least_squares_amplitude_over_its_error():
    rng = np.random.default_rng(1)
    bank = templates.bank(np.arange(12.0))
    flux, error = rng.normal(1, 0.1, (3, 12)), rng.uniform(0.05, 0.2, (3, 12))
    flux[1, 4] = np.nan
    best, which, amplitude = templates.score(flux, error, bank)
    for i in range(3):
        kept = np.isfinite(flux[i])
        every = []
        for shape in bank.shapes.T:
            design = np.stack([np.ones(12), shape], 1)[kept] / error[i, kept, None]
            normal = design.T @ design
            if np.linalg.inv(normal)[1, 1] * normal[1, 1] > 20:
                every.append(-np.inf)  # too like a constant to be told from it
                continue
            solved = np.linalg.solve(normal, design.T @ (flux[i] / error[i])[kept])
            every.append(solved[1] / np.sqrt(np.linalg.inv(normal)[1, 1]))
            if len(every) - 1 == which[i]:
                assert amplitude[i] == pytest.approx(solved[1] / solved[0])
        assert best[i] == pytest.approx(max(every))
        assert which[i] == int(np.argmax(every))


def test_short_light_curves_have_no_score():
    bank = templates.bank(np.arange(6.0))
    flux = np.ones((2, 6))
    flux[1, 2:] = np.nan
    assert templates.score(flux, 0.1 * flux, bank)[0].tolist() == [pytest.approx(0), 0]


def test_false_alarms_of_noise_come_as_stated():
    rng = np.random.default_rng(2)
    bank = templates.bank(np.arange(20.0))
    trials = templates.effective_trials(np.empty((0, 20)), np.empty((0, 20)), bank, rng)
    best = templates.score(100 + rng.standard_normal((20000, 20)), np.ones((20000, 20)), bank)[0]
    p = 10 ** templates.log10_false_alarm(best, trials)
    for level in (0.05, 0.01, 0.001):
        count = np.sum(p < level)
        assert stats.poisson.sf(count - 1, 20000 * level * 1.15) > 1e-3, level  # not too many
        assert count > 0.5 * 20000 * level, level  # nor far too few


def test_heavy_tails_of_measurements_raise_the_number_of_trials():
    rng = np.random.default_rng(3)
    bank = templates.bank(np.arange(20.0))
    heavy = 100 + rng.standard_t(3, (500, 20))
    ones = np.ones_like(heavy)
    assert templates.effective_trials(heavy, ones, bank, rng) > 3 * templates.effective_trials(
        100 + rng.standard_normal((500, 20)), ones, bank, rng
    )


def test_season_of_thirty_nights():
    """Events of 5 sigma found above 90 %, under 1 in 1000 constant sources, one bad night."""
    options = LightcurveOptions()
    table, kinds = season.make(np.random.default_rng(4), 3000, 150, 150)
    _, measures, figures = season.light_curves(table, options)
    assert [e.systematic for e in figures.epochs] == pytest.approx([0.02] * 30, rel=0.1)
    assert 50 < figures.template_trials < 2000
    found = kinds[candidates(measures, options).source_id].value_counts()
    assert found.get("constant", 0) <= 3
    assert found["ese"] > 0.9 * 150
    assert found["flare"] > 0.9 * 150
