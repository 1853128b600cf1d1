"""Options, environment and shared simulated data of the test suite."""

import os
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

# Steps that tests start as programs find the package as the tests do.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(SRC), os.environ.get("PYTHONPATH", "")])
)
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the second tier of tests, too")
    parser.addoption("--soak-days", default="3", help="days of the soak (second tier)")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="second tier; runs with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _stay_here():
    """Return to where the tests are run: commands go to where their results are."""
    here = Path.cwd()
    yield
    os.chdir(here)


@pytest.fixture(scope="session")
def tiny_night(tmp_path_factory):
    """One small night as `simulate --preset test` makes it: a 3C48 transit and a target tile.

    Returns `dsa110_contimg.simulation.Truth`. Treat the files as read-only.
    """
    from dsa110_contimg.simulation import season as simulation

    return simulation.simulate(simulation.PRESETS["test"], tmp_path_factory.mktemp("tiny_night"))


@pytest.fixture(scope="session")
def clean_night(tmp_path_factory):
    """The same without noise, interference and dead antennas, gains included."""
    from dsa110_contimg.simulation import season as simulation

    options = simulation.PRESETS["test"].model_copy(
        update={"noise": False, "rfi": False, "dead_antennas": 0}
    )
    return simulation.simulate(options, tmp_path_factory.mktemp("clean_night"))
