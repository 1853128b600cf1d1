"""Calibration tables read the same with either library, and sorted as their rows say."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from casacore import tables as casacore

from dsa110_contimg.calibration.tables import Calibration, read_cube, read_solution
from dsa110_contimg.core.errors import DataError
from support.fake_results import write_caltable

N_ANTENNAS, N_CHAN, MJD = 6, 32, 61000.0
READ = """
import pickle, sys
from dsa110_contimg.calibration.tables import read_solution
from dsa110_contimg.core.casa import casa_session
with casa_session():
    pickle.dump(vars(read_solution(sys.argv[1])), open(sys.argv[2], "wb"))
assert "casacore" not in sys.modules
"""


@pytest.fixture
def prefix(tmp_path):
    rng = np.random.default_rng(1)
    for kind in ("kcal", "bcal", "gcal"):
        write_caltable(tmp_path / f"a.{kind}", kind, N_ANTENNAS, N_CHAN, MJD, rng)
    return tmp_path / "a"


@pytest.mark.parametrize("kind", ["kcal", "bcal"])
def test_casa_and_casacore_read_the_same(prefix, tmp_path, kind):
    path = f"{prefix}.{kind}"
    subprocess.run([sys.executable, "-c", READ, path, tmp_path / "out"], check=True)
    theirs, ours = pickle.loads((tmp_path / "out").read_bytes()), vars(read_solution(path))
    assert theirs.keys() == ours.keys()
    for name, values in ours.items():
        assert np.array_equal(theirs[name], values), name
    assert ours["values"].shape == (N_ANTENNAS, 1 if kind == "kcal" else N_CHAN, 2)


def test_rows_are_put_in_their_places(prefix):
    """In another order, at two times, in two spectral windows of which the second lies lower."""
    path = f"{prefix}.bcal"
    rng = np.random.default_rng(2)
    with casacore.table(path, readonly=False, ack=False) as table:
        table.addrows(3 * N_ANTENNAS)
        antenna, time, window = (a.ravel() for a in np.indices((N_ANTENNAS, 2, 2)))
        order = rng.permutation(len(antenna))
        antenna, time, window = antenna[order], time[order], window[order]
        values = rng.normal(size=(len(antenna), N_CHAN, 2)) + 0j
        flags = rng.random(values.shape) < 0.2
        table.putcol("ANTENNA1", antenna.astype(np.int32))
        table.putcol("TIME", MJD * 86400 + 60.0 * time)
        table.putcol("SPECTRAL_WINDOW_ID", window.astype(np.int32))
        for name, column in (("CPARAM", values), ("FLAG", flags), ("SNR", np.abs(values))):
            table.putcol(name, column)
    with casacore.table(f"{path}/SPECTRAL_WINDOW", readonly=False, ack=False) as windows:
        windows.addrows(1)
        windows.putcell("CHAN_FREQ", 1, windows.getcell("CHAN_FREQ", 0) - 1e9)
    cube = read_cube(path)
    assert cube.time_s.tolist() == [MJD * 86400, MJD * 86400 + 60]
    assert (np.diff(cube.freq_hz) > 0).all()
    for row in range(len(antenna)):
        channels = slice(0, N_CHAN) if window[row] else slice(N_CHAN, None)
        place = (time[row], antenna[row], channels)
        assert np.array_equal(np.ma.getmaskarray(cube.values[place]), flags[row])
        assert np.ma.allequal(cube.values[place], values[row])
        assert np.ma.allequal(cube.snr[place], np.abs(values[row]))


def test_antennas_without_solutions_have_none(prefix):
    cube = read_cube(f"{prefix}.gcal")
    assert cube.only({"2", "9"}).antennas == ["2"]
    values = cube.of_antennas(N_ANTENNAS + 2)
    assert values.shape == (1, N_ANTENNAS + 2, 1, 2)
    solved = np.isfinite(values[0, :, 0, 0])
    assert solved.tolist() == [True, True, True, False, True, True, False, False]  # 3 is dead
    calibration = Calibration.read(prefix, N_ANTENNAS + 2)
    assert calibration.bandpass.shape == (N_ANTENNAS + 2, N_CHAN, 2)
    assert np.isnan(calibration.delay_s[-2:]).all()


def test_what_holds_no_solution_is_told_from_what_cannot_be_read(prefix, tmp_path):
    empty = tmp_path / "empty.bcal"
    with casacore.table(f"{prefix}.bcal", ack=False) as table:
        table.query("ANTENNA1 < 0").copy(str(empty), deep=True).close()
    assert read_solution(empty) is None
    with pytest.raises(DataError, match="holds no solutions"):
        read_cube(empty)
    with pytest.raises(DataError, match="no readable calibration table"):
        read_solution(tmp_path / "absent")
