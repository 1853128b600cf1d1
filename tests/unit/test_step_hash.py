"""What a step's products depend on beside their inputs: its code, and the data that this names."""

import shutil
from pathlib import Path

import pytest

from dsa110_contimg import planning, products


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that may be changed."""
    copy = tmp_path / "dsa110_contimg"
    shutil.copytree(Path(planning.__file__).parent, copy)
    for module in (planning, products):
        monkeypatch.setattr(module, "__file__", str(copy / f"{module.__name__.split('.')[1]}.py"))
    yield copy
    forget()


def forget():
    for cached in (planning.step_hash, planning._imports, planning._tree):
        cached.cache_clear()


def hashes():
    forget()
    steps = ("calibration", "apply", "imaging", "qa", "index", "report", "tilereport")
    return {step: planning.step_hash(step) for step in steps}


@pytest.mark.parametrize(
    ("file", "changed", "same"),
    [
        ("data/templates/style.css", {"report", "tilereport"}, {"calibration", "imaging", "qa"}),
        ("data/templates/tile.html.j2", {"report", "tilereport"}, {"calibration", "index"}),
        ("data/vla_calibrators_20cm.csv", {"calibration"}, {"qa", "index"}),
        ("visibilities.py", {"apply"}, {"report", "tilereport", "calibration"}),
        ("tilefigures.py", {"tilereport"}, {"report", "qa"}),
    ],
)
def test_a_changed_file_changes_the_steps_that_use_it(package, file, changed, same):
    before = hashes()
    with (package / file).open("a") as text:
        text.write("\n")
    after = hashes()
    differ = {step for step in before if before[step] != after[step]}
    assert changed <= differ and not same & differ


def test_all_templates_are_covered():
    folder = Path(planning.__file__).parent
    files = {str(p.relative_to(folder)) for p in (folder / "data/templates").iterdir()}
    assert files <= set(planning._data("report"))
