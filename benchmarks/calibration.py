"""Flagging and calibration of a full-size calibrator tile: truth, and time against plain CASA.

    python benchmarks/calibration.py [FOLDER]

simulates a calibrator transit (96 antennas of which three are dead, 768 channels, 24 integrations,
2.3 GB; random gains, 2 ns delays, subband edges down by a third, interference, neighbours with a
fifth of the calibrator's flux) unless FOLDER holds it, runs group, convert, calibrate and apply as
the workflow does, each in a process of its own, and then the plain sequence of CASA tasks on the
full-resolution Measurement Set. What was recovered is compared with what was injected. Prints
Markdown and keeps it in ``benchmarks/results/``; ``--page`` makes it the documentation's. Needs
12 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import ROOT, add_page_option, heading, keep, run, step

sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
#: Length of the plain sequence's intervals of phase.
PHASE_SOLINT = "60s"


PLAIN = """
import json, sys, time
from dsa110_contimg.core.casa import casa_session
ms, folder, ra, dec, flux, index, refant, solint = sys.argv[1:]
times = {}
def run(name, task, **options):
    started = time.monotonic()
    task(**options)
    times[name] = time.monotonic() - started
with casa_session() as casa:
    shifted, tables = f"{folder}/shifted.ms", [f"{folder}/{k}" for k in "KPBG"]
    common = dict(vis=shifted, refant=refant, combine="scan", uvrange=">1klambda", minsnr=3)
    run("turn to the calibrator (phaseshift)", casa.phaseshift, vis=ms, outputvis=shifted,
        phasecenter=f"J2000 {ra}deg {dec}deg")
    run("model (setjy)", casa.setjy, vis=shifted, standard="manual", usescratch=True,
        fluxdensity=[float(flux), 0, 0, 0], spix=[float(index)], reffreq="1.4GHz")
    run("delays (K)", casa.gaincal, caltable=tables[0], gaintype="K", solint="inf", **common)
    run("pre-bandpass phases", casa.gaincal, caltable=tables[1], gaintype="G", calmode="p",
        solint=solint, gaintable=tables[:1], **common)
    run("bandpass (B)", casa.bandpass, caltable=tables[2], bandtype="B", solint="inf",
        solnorm=True, fillgaps=3, gaintable=tables[:2], **common)
    run("gains (G)", casa.gaincal, caltable=tables[3], gaintype="G", calmode="ap", solint="inf",
        gaintable=[tables[0], tables[2]], **common)
json.dump(times, open(f"{folder}/times.json", "w"))
"""


def plain_casa(ms: Path, qa: dict, folder: Path) -> dict[str, float]:
    """Return the times of the tasks on the full-resolution Measurement Set."""
    from dsa110_contimg.catalogs.calibrators import find_calibrator

    calibrator = find_calibrator(qa["calibrator"])
    flux = calibrator.flux(np.array([1.3e9, 1.4e9, 1.5e9]))
    index = np.log(flux[2] / flux[0]) / np.log(1.5 / 1.3)
    numbers = (calibrator.ra_deg, calibrator.dec_deg, flux[1], index)
    run([sys.executable, "-c", PLAIN, ms, folder, *numbers, qa["refant"], PHASE_SOLINT])
    return json.loads((folder / "times.json").read_text())


def judge_gains(truth, group: str, prefix: Path) -> list[tuple[str, str, str]]:
    """Compare recovered gains with the injected ones."""
    from dsa110_contimg.calibration.tables import KINDS, read_solution, total_gain
    from support.caltables import true_gains

    gains, freq = true_gains(truth, group)
    found = total_gain({k: read_solution(Path(f"{prefix}.{k}")) for k in KINDS}, freq)
    alive = np.flatnonzero(np.isfinite(gains).all(axis=(1, 2)))
    ratio = found[alive] / gains[alive]
    ratio = ratio[:, np.isfinite(ratio).all(axis=(0, 2))]
    ratio *= np.exp(-1j * np.angle(ratio[:1]))
    by_antenna = ratio.mean(axis=1)
    amplitude, phase = np.abs(by_antenna), np.rad2deg(np.angle(by_antenna))
    each = np.median(np.abs(np.abs(ratio) - 1)), np.rad2deg(np.median(np.abs(np.angle(ratio))))
    return [
        ("gain amplitude, median over antennas", f"{np.median(abs(amplitude - 1)):.2%}", "1 %"),
        ("gain phase, median over antennas", f"{np.median(abs(phase)):.2f} deg", "1 deg"),
        ("the same of single channels", f"{each[0]:.2%}, {each[1]:.2f} deg", ""),
        ("flux scale", f"{np.median(amplitude) ** 2 - 1:+.2%}", "1 %"),
    ]


def judge_flags(truth, group: str, ms: Path) -> list[tuple[str, str, str]]:
    """Compare flags with the injected interference."""
    from casacore.tables import table

    from dsa110_contimg.simulation.correlator import Instrument

    o = truth.options
    instrument = Instrument.choose(o.antennas, o.channels, o.integrations)
    with np.load(truth.folder / "truth" / f"{group}.rfi.npz") as file:
        order = np.argsort(file["freq_hz"])
        power, voltage = file["power_jy"][:, order], file["voltage"]
    picked = np.zeros(117)
    picked[instrument.antennas] = voltage
    sigma = instrument.noise_jy(o.sefd_jy)
    counts = np.zeros(4)
    with table(str(ms), ack=False) as t:
        n = t.nrows() // o.integrations
        a1, a2 = t.getcol("ANTENNA1", 0, n), t.getcol("ANTENNA2", 0, n)
        rows = (a1 != a2) & ~np.isin(a1, list(truth.dead)) & ~np.isin(a2, list(truth.dead))
        pair = (picked[a1] * picked[a2])[rows]
        for k in range(o.integrations):
            flags = t.getcol("FLAG", k * n, n)[rows].all(axis=-1)
            strength = pair[:, None] * power[k]
            dirty, clean = strength > 5 * sigma, strength == 0
            counts += flags[dirty].sum(), dirty.sum(), flags[clean].sum(), clean.sum()
    return [
        ("interference above 5 sigma that is flagged", f"{counts[0] / counts[1]:.2%}", "95 %"),
        ("clean samples that are flagged", f"{counts[2] / counts[3]:.2%}", "< 2 %"),
    ]


def judge_bias(truth, group: str, ms: Path, scratch: Path) -> list[tuple[str, str, str]]:
    """Compare what flags left, over the injected gains, with the model of the field."""
    from casacore.tables import table

    from dsa110_contimg.calibration import working_copy
    from dsa110_contimg.catalogs import calibrators, catalogue
    from support.caltables import true_gains

    copy = scratch / "copy.ms"
    working_copy.write_working_copy(
        ms,
        copy,
        calibrators.find_calibrator(truth.options.calibrator),
        catalogue.read_catalog(truth.folder / "catalog.csv"),
        uvmin_klambda=1.0,
    )
    gains, _ = true_gains(truth, group)
    above = below = 0.0
    with table(str(copy), ack=False) as t:
        for start in range(0, t.nrows(), 1000):
            part = start, min(1000, t.nrows() - start)
            model = t.getcol("MODEL_DATA", *part)
            pair = gains[t.getcol("ANTENNA1", *part)] * gains[t.getcol("ANTENNA2", *part)].conj()
            good = ~t.getcol("FLAG", *part) & np.isfinite(pair)
            above += np.sum((t.getcol("DATA", *part)[good] / pair[good] * model[good].conj()).real)
            below += np.sum(np.abs(model[good]) ** 2)
    return [("bias of the calibrator's flux by flags", f"{above / below - 1:+.3%}", "0.5 %")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="kept; a temporary one by default")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain sequence out")
    add_page_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = measure(args.folder or Path(temporary), plain=not args.no_plain)
    print(report)
    keep("calibration", report, args.page and not args.no_plain)


def measure(folder: Path, plain: bool) -> str:
    from dsa110_contimg.simulation import season as simulation

    options = simulation.PRESETS["full"].model_copy(
        update={"neighbour_share": 0.2, "dead_antennas": 3, "seed": 5}
    )
    truth = simulation.simulate(options, folder / "night")
    (group,) = truth.groups
    files = [truth.folder / name for name in truth.groups[group]["files"]]
    raw, ms, prefix = folder / f"group_{group}.hdf5", folder / f"{group}.ms", folder / group
    for path in (raw, ms, Path(f"{prefix}.cal.ms")):
        (shutil.rmtree if path.is_dir() else Path.unlink)(path) if path.exists() else None
    catalog = truth.folder / "catalog.csv"
    step("group", raw, *files)
    rows = [("convert and flag", step("convert", raw, ms).seconds)]
    timings = json.loads(Path(f"{ms}.json").read_text())["timings_s"]
    rows += [(f"- of which {k}", timings[k]) for k in ("flag_bad", "flag_engine", "flag_clip")]
    solve = ["calibrate", ms, prefix, "--calibrator", "3C48", "--catalog", catalog]
    rows.append(("calibrate: model, averaged copy, K, phases, B, G", step(*solve).seconds))
    sidecar = json.loads(Path(f"{prefix}.gcal.json").read_text())
    rows += [(f"- of which {k}", v) for k, v in sidecar["timings_s"].items()]
    fast = folder / "quick"
    fast.mkdir(exist_ok=True)
    quick = step(*solve[:2], fast / group, *solve[3:], "--mode", "quick")
    rows.append(("calibrate, `mode: quick`", quick.seconds))
    apply = step("apply", ms, f"{prefix}.cal.ms", "--candidate", prefix)
    rows.append(("apply and average", apply.seconds))
    timings = json.loads(Path(f"{prefix}.cal.ms.json").read_text())["timings_s"]
    rows += [(f"- of which {k}", v) for k, v in timings.items()]
    if plain:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            times = plain_casa(ms.absolute(), sidecar["qa"], Path(scratch))
        rows.append(("plain CASA on the full-resolution set", sum(times.values())))
        rows += [(f"- of which {name}", seconds) for name, seconds in times.items()]
    judged = judge_flags(truth, group, ms) + judge_gains(truth, group, prefix)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        judged += judge_bias(truth, group, ms, Path(scratch))
    lines = [
        "# Flagging and calibration of a full-size tile",
        "",
        f"{heading('python benchmarks/calibration.py')}, load {os.getloadavg()[2]:.1f} "
        f"(mean of 15 minutes, this run included).",
        "",
        f"Verdict of the solution: {sidecar['verdict']}"
        + "".join(f"; {reason}" for reason in sidecar["reasons"]),
        "",
        "| step | wall s |",
        "|---|---|",
        *(f"| {name} | {seconds:.1f} |" for name, seconds in rows),
        "",
        "| against what was injected | found | wanted |",
        "|---|---|---|",
        *(f"| {name} | {found} | {wanted} |" for name, found, wanted in judged),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
