"""What self-calibration accepts, and what it does to the gains; the solving itself is in truth/."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from dsa110_contimg.core.options import SelfcalOptions
from dsa110_contimg.imaging import selfcal

OPTIONS = SelfcalOptions()
N = 200


@dataclass
class Picture:
    planes: dict
    name: str = ""


def picture(noise=1e-3, flux=1.0, artefact=0.0, hole=0.0):
    """Three sources on noise; a ripple about the brightest, a hole far away."""
    rng = np.random.default_rng(1)
    residual = noise * rng.standard_normal((N, N))
    residual[80:120, 80:120] += artefact * np.sin(np.arange(40))[:, None]
    residual[10, 10] -= hole
    image = residual.copy()
    for row, column, peak in ((100, 100, 1.0), (40, 150, 0.2), (150, 30, 0.1)):
        image[row, column] += flux * peak
    return Picture({"image": image, "residual": residual})


@pytest.mark.parametrize(
    ("mode", "after", "reason"),
    [
        ("phase", {}, "gains"),
        ("phase", {"noise": 0.9e-3}, None),
        ("phase", {"noise": 0.97e-3}, "gains 3.1% only"),
        ("phase", {"noise": 0.9e-3, "flux": 1.05}, None),  # phases return flux
        ("amplitude", {"noise": 0.9e-3, "flux": 1.05}, "fluxes by a factor 1.05"),
        ("amplitude", {"noise": 0.9e-3, "flux": 1.01}, None),
        ("phase", {"noise": 0.9e-3, "flux": 0.95}, "fluxes by a factor 0.95"),
        ("phase", {"noise": 1.05e-3, "flux": 1.2}, "noise would grow"),
        ("phase", {"noise": 0.9e-3, "hole": 0.01}, "hole"),
        ("phase", {"noise": 0.9e-3, "artefact": 0.004}, "gains -"),
        ("phase", {"noise": np.nan}, "blank"),
    ],
)
def test_only_better_images_are_accepted(mode, after, reason):
    found, figures = selfcal.why_worse(mode, picture(), picture(**after), OPTIONS)
    assert (found is None) if reason is None else reason in found
    assert set(figures) == {"dynamic_range", "dynamic_range_gain", "noise_ratio", "flux_ratio"}


def test_fluxes_may_change_by_what_the_errors_explain():
    after = picture(noise=0.9e-3, flux=1.04)
    assert "fluxes" in selfcal.why_worse("amplitude", picture(), after, OPTIONS)[0]
    assert selfcal.why_worse("amplitude", picture(), after, OPTIONS, 0.015)[0] is None


def test_artefacts_that_vanish_count_though_the_noise_stays():
    found, figures = selfcal.why_worse("phase", picture(artefact=0.02), picture(), OPTIONS)
    assert found is None
    assert figures["dynamic_range_gain"] > 1.5


def solved(amplitude, n_time=1, seed=1):
    rng = np.random.default_rng(seed)
    gains = amplitude * (1 + 0.1 * rng.standard_normal((n_time, 20, 2)))
    return selfcal.Solved(61000.0 + np.arange(n_time), gains * np.exp(0.2j), 0.0)


@pytest.mark.parametrize("n_time", [1, 4])
def test_normalised_gains_leave_the_mean_visibility(n_time):
    present = np.delete(np.arange(20), 3)
    gains = solved(1.7, n_time).normalised(present).gains[:, present]
    pairs = np.abs(np.einsum("tip,tjp->tijp", gains, gains.conj()))
    off_diagonal = ~np.eye(len(present), dtype=bool)
    assert pairs[:, off_diagonal].mean(axis=(0, 1)) == pytest.approx(1)


def test_scatter_is_blind_to_what_antennas_have_in_common():
    phases, amplitudes = solved(1.0).scatter(np.arange(20))
    assert phases == pytest.approx(0, abs=1e-6)
    assert amplitudes == pytest.approx(0.1, abs=0.03)


def test_rounds_are_phases_then_amplitudes():
    rounds = selfcal.rounds_of(SelfcalOptions(phase_s=(0, 60), amplitude_s=(0,)))
    assert [(r.mode, r.solint) for r in rounds] == [
        ("phase", "inf"),
        ("phase", "60s"),
        ("amplitude", "inf"),
    ]


@dataclass(frozen=True)
class Data:
    path: object
    names: list = field(default_factory=list)


def go(tmp_path, monkeypatch, qualities, flagged=0.0):
    """Go through three rounds whose images have the noise of `qualities`; return what was kept."""
    monkeypatch.setattr(
        selfcal,
        "solve",
        lambda tile, step, predict, folder, **_: (
            selfcal.Solved(np.zeros(1), np.ones((1, 20, 2), complex), flagged),
            np.arange(20),
        ),
    )

    def corrected(tile, gains, out):
        out.mkdir()
        return Data(out)

    monkeypatch.setattr(selfcal, "apply_gains", corrected)
    images = iter(qualities)
    return selfcal.improve(
        Data(tmp_path / "original.ms"),
        picture(),
        selfcal.rounds_of(SelfcalOptions(phase_s=(0, 60), amplitude_s=(0,))),
        lambda tile, folder: picture(noise=next(images)),
        lambda shown, ms: None,
        tmp_path,
        uvmin_lambda=1000,
        options=OPTIONS,
        timeout_s=1,
    )


def test_each_round_builds_on_the_best(tmp_path, monkeypatch):
    best = go(tmp_path, monkeypatch, [0.8e-3, 0.6e-3, 0.5e-3])
    assert [r.accepted for r in best.record] == [True] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["selfcal3"]  # nothing superseded is left
    assert best.tile.path.parent.name == "selfcal3"


def test_phases_end_with_the_first_failure_and_amplitudes_are_tried(tmp_path, monkeypatch):
    best = go(tmp_path, monkeypatch, [1.2e-3, 0.5e-3])
    assert [(r.mode, r.accepted) for r in best.record] == [
        ("phase", False),
        ("amplitude", True),
    ]
    assert "noise would grow" in best.record[0].reason


def test_nothing_better_leaves_the_tile_as_it_was(tmp_path, monkeypatch):
    best = go(tmp_path, monkeypatch, [1.2e-3, 1.1e-3])
    assert best.tile.path.name == "original.ms"
    assert not list(tmp_path.iterdir())


def test_weak_solutions_are_not_even_imaged(tmp_path, monkeypatch):
    best = go(tmp_path, monkeypatch, [], flagged=0.5)
    assert [r.reason for r in best.record] == ["50% of the solutions are too weak"] * 2


def test_model_is_the_tops_of_bright_sources(tmp_path):
    from astropy.io import fits

    shown = picture()
    shown.planes["image"][100, 101:104] = 0.8, 0.3, 0.1
    path = tmp_path / "tile-model.fits"
    fits.writeto(path, np.ones((1, 1, N, N), np.float32))
    selfcal.keep_sources(shown, [path], 3)
    kept = np.argwhere(fits.getdata(path)[0, 0])
    assert {tuple(p) for p in kept} == {(100, 100), (100, 101), (40, 150), (150, 30)}
