"""Package data and the repository are found from any folder, wherever the package lies."""

import os
import shutil
import subprocess
import sys

import pytest

from dsa110_contimg.core import places
from support import REPO

READ = """
from dsa110_contimg.calibration.plan import plan_calibration
from dsa110_contimg.catalogs.calibrators import vla_calibrators
from dsa110_contimg.conversion.flagging import strategy_path
from dsa110_contimg.reports.pages import environment
from dsa110_contimg.telescope.dsa110 import stations
assert len(stations().names) == 117 and len(vla_calibrators()) > 100
assert strategy_path().is_file() and environment().list_templates()
"""
ROOT = "from dsa110_contimg.core.places import repository; print(repository())"


def python(code, folder, source, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source), **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The package as an installation has it: without the repository around it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(places.PACKAGE, folder / places.PACKAGE_NAME)
    return folder


def test_from_any_folder(tmp_path):
    done = python(READ + ROOT, tmp_path, REPO / "src")
    assert done.stdout.strip() == str(REPO), done.stderr


def test_from_a_package_that_lies_elsewhere(tmp_path, elsewhere):
    done = python(READ + ROOT, tmp_path, elsewhere, CONTIMG_REPO=str(REPO))
    assert done.stdout.strip() == str(REPO), done.stderr


def test_without_a_repository_one_line_says_what_to_do(tmp_path, elsewhere):
    done = python(ROOT, tmp_path, elsewhere, CONTIMG_REPO="")
    assert "set CONTIMG_REPO to a checkout" in done.stderr.splitlines()[-1]


def test_each_data_file_is_packaged():
    """What `package-data` names is what there is."""
    files = {
        p for p in places.PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")
    }
    assert {p for p in files if p.parent != places.PACKAGE} == {
        p for p in places.PACKAGE.glob("*/data/**/*") if p.is_file()
    }
