"""Simulated data that many tests share; made once a session."""

import pytest


@pytest.fixture(scope="session")
def tiny_night(tmp_path_factory):
    """One small night as `simulate --preset test` makes it: a 3C48 transit and a target tile.

    Returns `dsa110_contimg.simulation.Truth`. Treat the files as read-only.
    """
    from dsa110_contimg import simulation

    return simulation.simulate(simulation.PRESETS["test"], tmp_path_factory.mktemp("tiny_night"))


@pytest.fixture(scope="session")
def clean_night(tmp_path_factory):
    """The same without noise, interference and dead antennas, gains included."""
    from dsa110_contimg import simulation

    options = simulation.PRESETS["test"].model_copy(
        update={"noise": False, "rfi": False, "dead_antennas": 0}
    )
    return simulation.simulate(options, tmp_path_factory.mktemp("clean_night"))
