"""Flagging, solving and applying against a simulated calibrator tile of which all is known.

Forty antennas (three of them dead), 192 channels; random gains that drift, delays of 2 ns, subband
edges down by a third, interference, neighbours with a fifth of the calibrator's flux. CASA runs in
processes of its own; tables are read back with python-casacore.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dsa110_contimg.calibration import working_copy
from dsa110_contimg.calibration.tables import KINDS, read_solution, total_gain
from dsa110_contimg.catalogs import calibrators, catalogue
from dsa110_contimg.core import places
from dsa110_contimg.core.sidecar import read_sidecar, sidecar_path
from dsa110_contimg.simulation import correlator
from dsa110_contimg.simulation import season as simulation
from dsa110_contimg.telescope.beam import airy_power, separation_rad
from support.caltables import true_gains

GROUP_CHANNELS = 12


def run(step, *args):
    result = subprocess.run(
        [sys.executable, places.script(step), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def tile(tmp_path_factory):
    """Simulate, convert, calibrate, apply; return truth, group id, folder."""
    folder = tmp_path_factory.mktemp("calibrator")
    options = simulation.PRESETS["test"].model_copy(
        update={
            "tiles": 1,
            "antennas": 40,
            "channels": GROUP_CHANNELS,
            "integrations": 24,
            "neighbour_share": 0.2,
            "dead_antennas": 3,
            "drift_amplitude": 0.4,
            "drift_phase_deg": 80.0,
            "seed": 5,
        }
    )
    truth = simulation.simulate(options, folder / "night")
    (group,) = truth.groups
    files = [truth.folder / f for f in truth.groups[group]["files"]]
    raw = folder / f"group_{group}.hdf5"
    run("group", raw, *files)
    run("convert", raw, folder / f"{group}.ms")
    run(
        *("calibrate", folder / f"{group}.ms", folder / group),
        *("--calibrator", "3C48", "--catalog", truth.folder / "catalog.csv"),
    )
    run("apply", folder / f"{group}.ms", folder / f"{group}.cal.ms", "--candidate", folder / group)
    return truth, group, folder


def test_recovered_gains_are_the_injected_ones(tile):
    truth, group, folder = tile
    gains, freq = true_gains(truth, group)
    found = total_gain({k: read_solution(folder / f"{group}.{k}") for k in KINDS}, freq)
    alive = [a for a in truth.gains(group)["antennas"] if a not in truth.dead]
    ratio = (found / gains)[alive]
    channels = np.isfinite(ratio).all(axis=(0, 2))
    assert channels.mean() > 0.9  # channels of steady interference have no solution
    ratio = ratio[:, channels]
    ratio *= np.exp(-1j * np.angle(ratio[:1]))  # a reference antenna's phase is arbitrary
    of_antenna = ratio.mean(axis=1)
    amplitude, phase = np.abs(of_antenna), np.rad2deg(np.angle(of_antenna))
    assert np.median(np.abs(amplitude - 1)) < 0.01
    assert np.median(np.abs(phase)) < 1.0
    assert np.median(np.abs(np.abs(ratio) - 1)) < 0.01  # every channel by itself too
    assert np.median(np.abs(np.rad2deg(np.angle(ratio)))) < 1.0
    assert np.median(amplitude) ** 2 == pytest.approx(1, abs=0.01)  # the flux scale
    for dead in truth.dead:
        assert np.isnan(found[dead]).all()


def test_gains_follow_the_drifts(tile):
    """Gains of each integration against the injected drift, and what one gain would be off by."""
    truth, group, folder = tile
    known = truth.gains(group)
    gain = read_solution(folder / f"{group}.gcal")
    times = np.unique(gain.time_mjd)
    assert len(times) == 24
    assert read_sidecar(folder / f"{group}.gcal").figures.gain_interval_s == 60
    of_time = truth.groups[group]["start_mjd"] + (np.arange(24) + 0.5) * 12.884901888 / 86400
    nearest = np.abs(of_time[:, None] - times).argmin(axis=1)
    injected = np.stack([known["drift"][nearest == k].mean(axis=0) for k in range(len(times))])
    alive = ~np.isin(known["antennas"], list(truth.dead))
    antennas = known["antennas"][alive]
    found = np.stack(
        [
            [gain.values[(gain.antenna == a) & (gain.time_mjd == t), 0] for a in antennas]
            for t in times
        ]
    )[:, :, 0]  # (n_time, n_antenna, n_pol)
    reference = list(antennas).index(
        int(read_sidecar(folder / f"{group}.gcal").figures.refant[4:]) - 1
    )

    def relative(gains):
        """Drift about the mean in time, against the reference and the common amplitude."""
        drift = gains / gains.mean(axis=0)
        drift = drift * np.exp(-1j * np.angle(drift[:, [reference]]))
        return drift / np.abs(drift).mean(axis=1, keepdims=True)

    expected = relative(injected[:, alive, None])
    moved = np.rad2deg(np.abs(np.angle(expected)))
    assert np.percentile(moved, 90) > 3  # one gain a tile is off by so much
    off = relative(found) / expected
    assert np.percentile(np.rad2deg(np.abs(np.angle(off))), 90) < 1
    assert np.percentile(np.abs(np.abs(off) - 1), 90) < 0.007
    assert np.percentile(np.abs(np.abs(expected) - 1), 90) > 0.01


def test_sidecar_says_what_was_solved(tile):
    truth, group, folder = tile
    sidecar = read_sidecar(folder / f"{group}.gcal")
    assert sidecar.verdict == "pass", sidecar.reasons
    figures = sidecar.figures
    assert figures.flux_anchor == "Perley-Butler 2017"
    assert figures.steady is True
    pointing = read_sidecar(folder / f"{group}.ms").figures.pointing
    apparent = {
        source.name: source.flux(1.405e9, 0.0)
        * np.mean(
            airy_power(
                separation_rad(
                    np.array(pointing.ra_deg),
                    np.array(pointing.dec_deg),
                    source.ra_deg,
                    source.dec_deg,
                ),
                1.405e9,
            )
        )
        for source in truth.sky
    }
    share = apparent["3C48"] / sum(apparent.values())
    assert share < 0.9  # the neighbours matter
    assert figures.calibrator_share == pytest.approx(share, abs=0.01)
    assert figures.model_over_corrected == pytest.approx(1, abs=0.01)
    assert figures.refant.startswith("DSA-1")
    assert figures.gain_amplitude_median == pytest.approx(0.07, rel=0.15)
    assert figures.phase_drift_deg < 3


def test_calibrated_data_are_the_noiseless_sky(tile):
    """Mean over many visibilities of data over the prediction of the simulator itself."""
    from casacore.tables import table as open_table

    truth, group, folder = tile
    with open_table(str(folder / f"{group}.cal.ms"), ack=False) as t:
        data, flags = t.getcol("DATA"), t.getcol("FLAG")
        a1, a2 = t.getcol("ANTENNA1"), t.getcol("ANTENNA2")
        weights = t.getcol("WEIGHT_SPECTRUM")
        times = t.getcol("TIME")
    assert (a1 != a2).all()
    figures = read_sidecar(folder / f"{group}.cal.ms").figures
    assert np.asarray(figures.weights.weight).shape == (
        len(np.unique(times)),
        data.shape[1],
    )
    expected = np.where(flags, 0, weights).sum(axis=(0, 2))
    assert np.sum(figures.weights.weight, axis=0) == pytest.approx(expected, rel=1e-3)
    assert figures.calibration.group == group
    assert figures.calibration.borrowed is False
    assert len(figures.pointing.ra_deg) == 24
    # |V|^2 of sky and noise differ by the noise; the product of the two hands does not.
    good = ~flags.any(axis=2)
    power = np.mean((data[..., 0] * data[..., 1].conj())[good].real)
    n = GROUP_CHANNELS // figures.averaging.channels
    assert n * 16 == data.shape[1]
    instrument = correlator.Instrument.choose(40, GROUP_CHANNELS, 24)
    sky = correlator.predict(
        instrument,
        truth.sky,
        truth.groups[group]["start_mjd"],
        truth.groups[group]["dec_app_deg"],
    )
    first, second = instrument.baselines
    dead = np.isin(instrument.antennas, list(truth.dead))
    rows = (first != second) & ~dead[first] & ~dead[second]
    assert power == pytest.approx(np.mean(np.abs(sky[:, rows]) ** 2), rel=0.02)


def test_quick_mode_keeps_the_flux_scale(tile, tmp_path):
    """Phase-only gains and averaged channels: the bandpass carries the amplitudes."""
    truth, group, folder = tile
    run(
        *("calibrate", folder / f"{group}.ms", tmp_path / group, "--mode", "quick"),
        *("--calibrator", "3C48", "--catalog", truth.folder / "catalog.csv"),
    )
    assert read_sidecar(tmp_path / f"{group}.gcal").verdict == "pass"
    solutions = {k: read_solution(tmp_path / f"{group}.{k}") for k in KINDS}
    gains, freq = true_gains(truth, group)
    merged = solutions["bcal"].values.shape[1]
    assert merged == len(freq) // 4
    found = np.abs(total_gain(solutions, freq.reshape(merged, -1).mean(axis=1)))
    expected = np.abs(gains).reshape(117, merged, -1, 2).mean(axis=2)
    assert np.nanmedian(found / expected) ** 2 == pytest.approx(1, abs=0.01)
    assert np.allclose(np.abs(solutions["gcal"].values), 1, atol=1e-5)


def test_record_of_the_choice(tile):
    _, group, folder = tile
    record = json.loads((folder / f"{group}.calibration.json").read_text())
    assert record == {
        "target": group,
        "candidates": [group],
        "calibrators": {group: "3C48"},
        "chosen": group,
        "borrowed": False,
        "flux_anchor": "Perley-Butler 2017",
        "steady": True,
        "reasons": [],
    }


def test_interference_is_flagged_and_little_else(tile):
    from casacore.tables import table as open_table

    truth, group, folder = tile
    instrument = correlator.Instrument.choose(40, GROUP_CHANNELS, 24)
    with open_table(str(folder / f"{group}.ms"), ack=False) as t:
        a1, a2, flags = t.getcol("ANTENNA1"), t.getcol("ANTENNA2"), t.getcol("FLAG")
    flags = flags.reshape(24, -1, *flags.shape[1:])
    a1, a2 = a1[: flags.shape[1]], a2[: flags.shape[1]]
    with np.load(truth.folder / "truth" / f"{group}.rfi.npz") as file:
        order = np.argsort(file["freq_hz"])
        power, voltage = file["power_jy"][:, order], file["voltage"]
    picked = np.zeros(117)
    picked[instrument.antennas] = voltage
    dead = np.isin(a1, list(truth.dead)) | np.isin(a2, list(truth.dead))
    rows = (a1 != a2) & ~dead
    strength = power[:, None] * (picked[a1] * picked[a2])[rows][:, None]
    sigma = instrument.noise_jy(truth.options.sefd_jy)
    found = flags[:, rows].all(axis=-1)
    assert (strength > 5 * sigma).mean() > 0.005  # the test has something to find
    assert found[strength > 5 * sigma].mean() > 0.95
    assert found[strength == 0].mean() < 0.02


def test_flagging_does_not_bias_the_flux(tile, tmp_path):
    """Data that flags left, over the true gains, against the model of the field."""
    from casacore.tables import table as open_table

    truth, group, folder = tile
    copy = tmp_path / "copy.ms"
    working_copy.write_working_copy(
        folder / f"{group}.ms",
        copy,
        calibrators.find_calibrator("3C48"),
        catalogue.read_catalog(truth.folder / "catalog.csv"),
        uvmin_klambda=1.0,
    )
    gains, _ = true_gains(truth, group)
    with open_table(str(copy), ack=False) as t:
        data, model, flags = t.getcol("DATA"), t.getcol("MODEL_DATA"), t.getcol("FLAG")
        pair = gains[t.getcol("ANTENNA1")] * gains[t.getcol("ANTENNA2")].conj()
    good = ~flags & np.isfinite(pair)
    ratio = np.sum((data / pair * model.conj())[good].real) / np.sum(np.abs(model[good]) ** 2)
    assert ratio == pytest.approx(1, abs=0.005)


def test_input_is_not_touched_by_calibrate_and_apply(tile):
    from casacore.tables import table as open_table

    _, group, folder = tile
    with open_table(str(folder / f"{group}.ms"), ack=False) as t:
        assert not {"MODEL_DATA", "CORRECTED_DATA"} & set(t.colnames())
    recorded = {i.path: i for i in read_sidecar(folder / f"{group}.gcal").inputs}
    assert str(folder / f"{group}.ms") in recorded


PLAIN = """
import sys
from dsa110_contimg.core.casa import casa_session
ms, out, prefix, channels = sys.argv[1:]
with casa_session() as casa:
    casa.applycal(vis=ms, gaintable=[f"{prefix}.{k}" for k in ("kcal", "bcal", "gcal")],
                  interp=["nearest", "nearest,linear", "linear"], calwt=[False, True, True],
                  flagbackup=False)
    casa.mstransform(vis=ms, outputvis=out, datacolumn="corrected", antenna="*&",
                     chanaverage=int(channels) > 1, chanbin=int(channels),
                     usewtspectrum=True, reindex=False)
"""


def columns(ms, *names):
    from casacore.tables import table as open_table

    with open_table(str(ms), ack=False) as main:
        return [main.getcol(name) for name in names]


def between_solutions(prefix):
    """Move gains by 40 s; flag some, and some channels of two antennas' bandpasses."""
    from casacore.tables import table as open_table

    with open_table(f"{prefix}.gcal", readonly=False, ack=False) as gain:
        gain.putcol("TIME", gain.getcol("TIME") + 40.0)
        flags = gain.getcol("FLAG")
        flags[np.flatnonzero(gain.getcol("ANTENNA1") == 20)[3:9]] = True
        gain.putcol("FLAG", flags)
    with open_table(f"{prefix}.bcal", readonly=False, ack=False) as bandpass:
        flags = bandpass.getcol("FLAG")
        antenna = bandpass.getcol("ANTENNA1")
        present = antenna[~flags.all(axis=(1, 2))]
        flags[antenna == present[2], 50:58] = True
        flags[antenna == present[5], :3] = True
        bandpass.putcol("FLAG", flags)


@pytest.mark.parametrize("engine", ["direct", "casa"])
@pytest.mark.parametrize("change", [None, between_solutions], ids=["as solved", "changed"])
def test_apply_equals_applycal_then_mstransform(tile, tmp_path, engine, change):
    _, group, folder = tile
    ms, prefix = tmp_path / f"{group}.ms", tmp_path / group
    for path in folder.glob(f"{group}.*"):
        if path.name.split(".", 1)[1] in ("ms", *KINDS):
            shutil.copytree(path, tmp_path / path.name)
            shutil.copy(sidecar_path(path), sidecar_path(tmp_path / path.name))
    if change:
        change(prefix)
    ours, plain = tmp_path / f"{group}.cal.ms", tmp_path / "plain.ms"
    run("apply", ms, ours, "--candidate", prefix, "--engine", engine)
    channels = str(read_sidecar(ours).figures.averaging.channels)
    subprocess.run(
        [sys.executable, "-c", PLAIN, ms, plain, prefix, channels], check=True, capture_output=True
    )
    for expected, found in zip(
        columns(plain, "ANTENNA1", "ANTENNA2", "TIME", "UVW", "FLAG"),
        columns(ours, "ANTENNA1", "ANTENNA2", "TIME", "UVW", "FLAG"),
        strict=True,
    ):
        assert np.array_equal(expected, found)
    (flags,) = columns(plain, "FLAG")
    assert 0 < flags.mean() < 0.5
    for name in ("DATA", "WEIGHT_SPECTRUM"):
        (expected,), (found,) = columns(plain, name), columns(ours, name)
        assert np.allclose(expected[~flags], found[~flags], rtol=1e-4), name


def test_failed_tile_gives_marked_tables_that_apply_refuses(tile, tmp_path):
    _, group, folder = tile
    ms = tmp_path / f"{group}.ms"
    shutil.copytree(folder / f"{group}.ms", ms)
    sidecar = json.loads(sidecar_path(folder / f"{group}.ms").read_text())
    sidecar |= {"verdict": "fail", "reasons": ["test"]}
    sidecar_path(ms).write_text(json.dumps(sidecar))
    run("calibrate", ms, tmp_path / group, "--calibrator", "3C48")
    for kind in KINDS:
        assert (tmp_path / f"{group}.{kind}").is_dir()
        assert read_sidecar(tmp_path / f"{group}.{kind}").verdict == "fail"
    refused = subprocess.run(
        [
            *(sys.executable, places.script("apply")),
            *(ms, tmp_path / f"{group}.cal.ms", "--candidate", tmp_path / group),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 3
    assert "no calibration can serve it" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / f"{group}.cal.ms").exists()
    # With a usable second candidate the failed one is passed over, and the record says so.
    ms.with_name(ms.name + ".json").write_text(json.dumps(sidecar | {"verdict": "pass"}))
    run(
        *("apply", ms, tmp_path / f"{group}.cal.ms"),
        *("--candidate", tmp_path / group, "--candidate", folder / group),
    )
    record = json.loads((tmp_path / f"{group}.calibration.json").read_text())
    assert record["chosen"] == group
    assert "failed" in record["reasons"][0]
