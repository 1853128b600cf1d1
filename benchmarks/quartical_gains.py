"""Solve a calibrator with QuartiCal on the copy that CASA solves on, and compare the gains.

Runs in an environment of its own, for QuartiCal's requirements are not those of the workflow::

    uv venv quartical && uv pip install -p quartical/bin/python quartical pydantic pyerfa
    PYTHONPATH=src quartical/bin/python benchmarks/quartical_gains.py \
        <id>.ms <prefix of the solved tables> catalog.csv

One complex gain a channel, antenna and polarisation over the tile is solved for; it is the product
of our delay, bandpass and gain. Wanted: agreement to 1 per cent.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from casacore.tables import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from dsa110_contimg.calibration.tables import KINDS, read_solution, total_gain
from dsa110_contimg.core.figures import CalibrateFigures
from dsa110_contimg.core.programs import program
from dsa110_contimg.core.sidecar import read_sidecar


def solve_with_quartical(copy, out, reference):
    """Return gains, (n_antennas, n_chan, 2)."""
    from daskms.experimental.zarr import xds_from_zarr

    command = [
        str(Path(sys.executable).with_name("goquartical")),
        f"input_ms.path={copy}",
        "input_ms.data_column=DATA",
        "input_ms.weight_column=WEIGHT",
        "input_ms.time_chunk=0",
        "input_ms.freq_chunk=0",
        "input_model.recipe=MODEL_DATA",
        "solver.terms=[G]",
        "solver.iter_recipe=[100]",
        f"solver.reference_antenna={reference}",
        "G.type=complex",
        "G.time_interval=0",
        "G.freq_interval=1",
        "G.initial_estimate=True",
        f"output.gain_directory={out}",
        "dask.threads=2",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    gains = xds_from_zarr(f"{out}::G")[0].gains.values
    return gains[0, :, :, 0, :].swapaxes(0, 1)[..., [0, -1]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ms", type=Path)
    parser.add_argument("prefix")
    parser.add_argument("catalog", type=Path)
    args = parser.parse_args()
    figures = read_sidecar(f"{args.prefix}.gcal", CalibrateFigures).figures
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy.ms"
        work = program(
            "dsa110_contimg.calibration.working_copy",
            ms=args.ms,
            out=copy,
            calibrator=figures.calibrator,
            calibrators_table=None,
            catalog=args.catalog,
        )
        subprocess.run(work, check=True)
        with table(f"{copy}::ANTENNA", ack=False) as t:
            reference = t.getcol("NAME").index(figures.refant)
        with table(f"{copy}::SPECTRAL_WINDOW", ack=False) as t:
            freq_hz = t.getcell("CHAN_FREQ", 0)
        theirs = solve_with_quartical(copy, Path(scratch) / "gains", reference)
    ours = total_gain({k: read_solution(f"{args.prefix}.{k}") for k in KINDS}, freq_hz)
    ratio = ours / theirs[: len(ours)]
    ratio = ratio * np.exp(-1j * np.angle(ratio[reference]))
    amplitude = np.nanmedian(np.abs(np.abs(ratio) - 1))
    phase = np.nanmedian(np.abs(np.rad2deg(np.angle(ratio))))
    print(f"channels compared: {np.isfinite(ratio).mean():.1%}")
    print(f"median difference in amplitude {amplitude:.2e}, in phase {phase:.2e} deg")
    return 0 if amplitude < 0.01 and phase < 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
