"""Options and environment of the test suite."""

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


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="second tier; runs with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
