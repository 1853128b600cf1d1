import numpy as np
import pytest

from dsa110_contimg.calibration import judge as calibration_judge
from dsa110_contimg.calibration import solve as solving
from dsa110_contimg.calibration.judge import judge_solution
from dsa110_contimg.calibration.reference_antenna import choose_reference
from dsa110_contimg.calibration.tables import Solution, total_gain
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import CalibrateFigures
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.core.times import DAY_S
from support.figures import example

N_ANT, N_CHAN = 20, 64
FREQ = np.linspace(1.3e9, 1.5e9, N_CHAN)


def solution(values, snr=50.0, flags=None):
    values = np.asarray(values)
    n = values.shape[0]
    flags = np.zeros(values.shape, bool) if flags is None else flags
    return Solution(
        np.arange(n), np.full(n, 61000.0 * DAY_S), values, flags, np.full(values.shape, snr)
    )


def good(rng=None):
    rng = rng or np.random.default_rng(1)
    phase = np.exp(1j * rng.uniform(-np.pi, np.pi, (N_ANT, 1, 2)))
    noise = 1 + 0.01 * (
        rng.normal(size=(N_ANT, N_CHAN, 2)) + 1j * rng.normal(size=(N_ANT, N_CHAN, 2))
    )
    return {
        "kcal": solution(rng.normal(0, 2, (N_ANT, 1, 2))),
        "bcal": solution(noise),
        "gcal": solution(0.07 * phase),
    }


def replace(base, kind, **changes):
    old = base[kind]
    fields = {
        "antenna": old.antenna,
        "time_s": old.time_s,
        "values": old.values,
        "flags": old.flags,
        "snr": old.snr,
    }
    return base | {kind: Solution(**(fields | changes))}


def flags_of(fraction, shape=(N_ANT, N_CHAN, 2)):
    flags = np.zeros(shape, bool)
    flags[:, : round(fraction * shape[1])] = True
    return flags


def verdict(solutions):
    sidecar = Sidecar("calibrate", figures=example(CalibrateFigures))
    judge_solution(solutions, sidecar)
    return sidecar, sidecar.figures


def test_good_solution_with_random_gain_phases_passes():
    sidecar, figures = verdict(good())
    assert sidecar.verdict == "pass"
    assert figures.gain_amplitude_median == pytest.approx(0.07)
    assert figures.n_antennas == N_ANT
    assert figures.bandpass_roughness == pytest.approx(0.01 * np.sqrt(2), rel=0.1)


def test_absent_antennas_do_not_count():
    flags = np.zeros((N_ANT, N_CHAN, 2), bool)
    flags[:8] = True
    solutions = replace(good(), "bcal", flags=flags)
    sidecar, figures = verdict(solutions)
    assert figures.bcal_flagged == pytest.approx(0.4)
    assert figures.bcal_flagged_effective == 0
    assert figures.n_antennas == 12
    assert sidecar.verdict == "pass"


@pytest.mark.parametrize(
    ("kind", "changes", "expected", "word"),
    [
        ("bcal", {"flags": flags_of(0.25)}, "warn", "flagged"),
        ("bcal", {"flags": flags_of(0.55)}, "fail", "flagged"),
        ("gcal", {"snr": np.full((N_ANT, 1, 2), 8.0)}, "warn", "signal-to-noise"),
        ("gcal", {"snr": np.full((N_ANT, 1, 2), 2.0)}, "fail", "signal-to-noise"),
        ("bcal", {"values": np.full((N_ANT, N_CHAN, 2), 12 + 0j)}, "warn", "amplitude"),
        ("kcal", {"values": np.full((N_ANT, 1, 2), 700.0)}, "fail", "delays"),
    ],
)
def test_gates(kind, changes, expected, word):
    sidecar, _ = verdict(replace(good(), kind, **changes))
    assert sidecar.verdict == expected
    assert word in sidecar.reasons[0]


def test_gate_on_bandpass_phases():
    rng = np.random.default_rng(2)
    phases = np.exp(1j * np.deg2rad(rng.normal(0, 50, (N_ANT, N_CHAN, 2))))
    sidecar, figures = verdict(replace(good(), "bcal", values=phases))
    assert sidecar.verdict == "warn"
    assert figures.bandpass_phase_scatter_deg == pytest.approx(50, rel=0.1)


def test_gate_on_number_of_antennas():
    flags = np.zeros((N_ANT, 1, 2), bool)
    flags[:11] = True
    sidecar, _ = verdict(replace(good(), "gcal", flags=flags))
    assert sidecar.verdict == "fail"
    assert "antennas" in sidecar.reasons[-1]


def test_subband_without_solutions_is_a_warning():
    flags = np.zeros((N_ANT, N_CHAN, 2), bool)
    flags[:, 8:12] = True
    sidecar, figures = verdict(replace(good(), "bcal", flags=flags))
    assert sidecar.verdict == "warn"
    assert figures.subbands_flagged == 1


def test_missing_solution_is_a_failure_not_a_crash():
    sidecar, figures = verdict({"kcal": good()["kcal"]})
    assert sidecar.verdict == "fail"
    assert "bcal, gcal" in sidecar.reasons[0]
    assert figures == example(CalibrateFigures)


def test_everything_flagged_is_a_failure():
    sidecar, _ = verdict(replace(good(), "gcal", flags=np.ones((N_ANT, 1, 2), bool)))
    assert sidecar.verdict == "fail"


def test_total_gain_is_the_product_with_delays_about_the_band_centre():
    solutions = good()
    total = total_gain(solutions, FREQ)
    tau = solutions["kcal"].values[3, 0, 1] * 1e-9
    expected = (
        solutions["bcal"].values[3, :, 1]
        * solutions["gcal"].values[3, 0, 1]
        * np.exp(2j * np.pi * tau * (FREQ - FREQ.mean()))
    )
    assert np.allclose(total[3, :, 1], expected)
    assert np.allclose(
        total_gain(solutions, FREQ, use_delay=False),
        solutions["bcal"].values * solutions["gcal"].values,
    )


def antennas(**flagged):
    return {f"DSA-{name[1:]}": f for name, f in flagged.items()}


def test_reference_is_a_healthy_outrigger():
    assert choose_reference(antennas(a020=0.0, a104=0.02, a109=0.01))[0] == "DSA-104"
    assert choose_reference(antennas(a020=0.0, a104=0.5, a109=0.01))[0] == "DSA-109"
    assert choose_reference(antennas(a020=0.0, a104=0.25, a109=0.01))[0] == "DSA-109"
    assert choose_reference(antennas(a020=0.1, a030=0.0))[0] == "DSA-030"


def test_no_healthy_reference_is_said():
    with pytest.raises(DataError, match="flagged"):
        choose_reference(antennas(a020=0.9, a104=1.0))


def test_roughness_ignores_slopes_and_subband_edges():
    edges = np.where(np.arange(N_CHAN) % 16 == 0, 0.7, 1.0)
    ramp = np.exp(1j * np.linspace(0, 2, N_CHAN)) * edges
    values = np.broadcast_to(ramp[None, :, None], (4, N_CHAN, 2))
    assert calibration_judge.roughness(values, np.zeros(values.shape, bool)) < 1e-3


def delays_of(values):
    values = np.asarray(values, float)
    shape = (len(values), 1, 2)
    return Solution(
        np.arange(len(values)),
        np.full(len(values), 61000.0 * DAY_S),
        np.broadcast_to(values[:, None, None], shape),
        np.zeros(shape, bool),
        np.zeros(shape),
    )


def test_delay_far_from_the_others_is_found_and_named():
    rng = np.random.default_rng(1)
    values = 2 * rng.standard_normal(60)
    assert calibration_judge.find_delay_outliers(delays_of(values), np.arange(60)) == {}
    values[7], values[31], values[50] = -160, 230, 400
    alive = np.delete(np.arange(60), 50)  # a dead antenna's delay is noise
    found = calibration_judge.find_delay_outliers(delays_of(values), alive)
    assert set(found) == {7, 31}
    assert found[7] == pytest.approx(-160, abs=2)
    assert found[31] == pytest.approx(230, abs=2)


@pytest.mark.parametrize(("n", "verdict"), [(0, "pass"), (1, "warn"), (3, "fail")])
def test_verdict_on_delays(n, verdict):
    values = np.random.default_rng(2).normal(0, 2, N_ANT)
    values[:n] = 180.0
    solutions = good() | {"kcal": delays_of(values)}
    sidecar = Sidecar("calibrate", figures=example(CalibrateFigures))
    names = {a: f"DSA-{a + 1:03d}" for a in range(N_ANT)}
    judge_solution(solutions, sidecar, names=names)
    figures = sidecar.figures
    assert sidecar.verdict == verdict
    assert figures.delay_rms_ns == pytest.approx(2, abs=0.8)
    assert set(figures.delay_outliers_ns) == {f"DSA-{a + 1:03d}" for a in range(n)}
    assert n == 0 or "DSA-001 +18" in sidecar.reasons[0]


def drifting(n_ant=12, n_time=5, seed=3):
    rng = np.random.default_rng(seed)
    drift = (1 + 0.02 * rng.standard_normal((n_time, n_ant, 1, 2))) * np.exp(
        0.1j * rng.standard_normal((n_time, n_ant, 1, 2))
    )
    common = np.linspace(0.9, 1.1, n_time)[:, None, None, None]
    long = 0.07 * np.exp(2j * rng.standard_normal((n_ant, 1, 2)))
    shape = (n_time * n_ant, 1, 2)
    gains = Solution(
        np.tile(np.arange(n_ant), n_time),
        np.repeat((61000.0 + np.arange(n_time)) * DAY_S, n_ant),
        (drift * common).reshape(shape),
        np.zeros(shape, bool),
        np.full(shape, 80.0),
    )
    flags = np.zeros(long.shape, bool)
    whole = Solution(
        np.arange(n_ant),
        np.full(n_ant, 61002.0 * DAY_S),
        long,
        flags,
        np.full(long.shape, 300.0),
    )
    return whole, gains, drift


def test_product_follows_each_antenna_and_not_the_common_amplitude():
    long, short, drift = drifting()
    short.values[short.antenna == 2] *= 1.1 * np.exp(0.3j)  # another bandpass
    product = solving.follow_drifts(long, short)
    found = product.values.reshape(drift.shape)
    assert found.mean(axis=0) == pytest.approx(long.values)
    together = np.abs(found).mean(axis=1)
    assert together == pytest.approx(
        np.broadcast_to(together.mean(axis=0), together.shape), rel=1e-3
    )
    moved = drift / np.abs(drift).mean(axis=1, keepdims=True)
    moved /= moved.mean(axis=0)
    assert np.abs(found / long.values / moved - 1).max() < 0.01  # what all did is a tenth
    phases = solving.follow_drifts(long, short, amplitudes=False)
    assert np.abs(phases.values) == pytest.approx(0.07)
    assert np.angle(phases.values / product.values) == pytest.approx(0, abs=2e-3)


def test_long_gain_stands_where_the_short_one_is_flagged():
    long, short, _ = drifting()
    short.flags[short.antenna == 4] = True
    long.flags[5] = True
    product = solving.follow_drifts(long, short)
    assert product.values[product.antenna == 4] == pytest.approx(np.stack([long.values[4]] * 5))
    assert not product.flags[product.antenna == 4].any()
    assert product.flags[product.antenna == 5].all()
    assert product.snr[product.antenna == 4] == pytest.approx(300)
