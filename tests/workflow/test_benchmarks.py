"""Benchmarks take long and are not run here: that what they name exists, and where they write."""

import ast
import re
import sys

import pytest

from dsa110_contimg import cli
from dsa110_contimg.core import places
from support import REPO

FOLDER = REPO / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
ROOTS = {places.PACKAGE_NAME: places.PACKAGE, "support": REPO / "tests/support"}


def programs(path):
    """Yield a script's tree, and those of the programs that it holds as text."""
    tree = ast.parse(path.read_text())
    yield tree
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.search(r"^from \w+", text, re.M):
            yield ast.parse(text)


def names_of(module):
    """Return the names that a module defines or imports, or the modules of a package."""
    parts = module.split(".")
    place = ROOTS[parts[0]].joinpath(*parts[1:])
    if place.is_dir():
        return {path.stem for path in place.iterdir()}
    found = set()
    for node in ast.parse(place.with_suffix(".py").read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {
                name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)
            }
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_what_a_benchmark_imports_exists(path):
    for tree in programs(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ROOTS:
                missing = {alias.name for alias in node.names} - names_of(node.module)
                assert not missing, f"{node.module} has no {', '.join(missing)}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_steps_and_commands_that_a_benchmark_runs_exist(path):
    text = path.read_text()
    for step in re.findall(r'\bstep\(\s*"(\w+)"', text):
        assert places.script(step).exists(), step
    for command in re.findall(r'\bcontimg\(\s*"(\w+)"', text):
        assert command in cli.COMMANDS, command


def test_a_report_goes_to_the_ignored_folder_and_to_the_docs_on_request(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import measure

    assert measure.RESULTS == FOLDER / "results"
    assert "/benchmarks/results/" in (REPO / ".gitignore").read_text().splitlines()
    assert measure.PAGES.is_dir()
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(measure, "PAGES", tmp_path / "pages")
    measure.keep("x", "some figures", page=False)
    assert (tmp_path / "results/x.md").read_text() == "some figures"
    assert not (tmp_path / "pages").exists()
    measure.keep("x", "some figures", page=True)
    assert (tmp_path / "pages/x.md").exists()
    sys.modules.pop("measure")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_a_benchmark_writes_to_the_docs_by_no_way_of_its_own(path):
    if path.stem != "measure":
        assert not re.search(r"docs.*(write|savefig)|PAGES", path.read_text())
