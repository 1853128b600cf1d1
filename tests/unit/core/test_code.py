"""What a step's products depend on beside their inputs: its code, and the data that this names.

The graph of imports that the hashes are held against is that of grimp, which import-linter uses.
"""

import ast
import re
import shutil

import grimp
import pytest

from dsa110_contimg.core import code, places

STEPS = sorted(path.stem for path in (places.repository() / "workflow/scripts").glob("*.py"))
MODULES = sorted(
    ".".join(path.relative_to(places.PACKAGE).with_suffix("").parts)
    for path in places.PACKAGE.rglob("*.py")
)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A copy of the package and of the scripts that may be changed."""
    folder = tmp_path_factory.mktemp("code")
    package = folder / places.PACKAGE_NAME
    shutil.copytree(places.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(places.repository() / "workflow/scripts", folder / "scripts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "PACKAGE", package)
        patch.setattr(places, "script", lambda step: folder / "scripts" / f"{step}.py")
        forget()
        yield folder
    forget()


def forget():
    for cached in (code.step_hash, code.run_hash, code.source_hash, code._names, code._imports):
        cached.cache_clear()


def hashes(function=code.step_hash):
    function.cache_clear()
    return {step: function(step) for step in STEPS}


def changed_by(path, function=code.step_hash):
    """Return the steps whose hash changes with a file; the file stays as it was."""
    content, before = path.read_bytes(), hashes(function)
    path.write_bytes(content + b"\n")
    after = hashes(function)
    path.write_bytes(content)
    assert hashes(function) == before
    return {step for step in STEPS if before[step] != after[step]}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(places.PACKAGE_NAME, cache_dir=None)


def imported_by(step):
    """Return the modules that a script imports itself."""
    tree = ast.parse((places.repository() / f"workflow/scripts/{step}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(places.PACKAGE_NAME):
            path = places.PACKAGE.parent.joinpath(*node.module.split("."))
            if path.is_dir():  # a package: what is imported from it are modules
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def reached(graph, step):
    """Return the modules that a step reaches, by the graph."""
    found = set(imported_by(step)) & graph.modules
    for module in list(found):
        found |= graph.find_upstream_modules(module)
    return {m.removeprefix(f"{places.PACKAGE_NAME}.") for m in found}


def without_plumbing(graph):
    for module in code.PLUMBING:
        if (name := f"{places.PACKAGE_NAME}.{module}") in graph.modules:
            graph.remove_module(name)
    return graph


def is_package_or_root(module):
    return module.endswith("__init__") or module in ("__main__",)


def test_each_module_changes_the_hash_of_exactly_the_steps_that_reach_it(copies, graph):
    from copy import deepcopy

    without = without_plumbing(deepcopy(graph))
    reach = {step: reached(without, step) for step in STEPS}
    for module in filter(lambda m: not is_package_or_root(m), MODULES):
        path = copies.joinpath(places.PACKAGE_NAME, *module.split(".")).with_suffix(".py")
        assert changed_by(path) == {s for s in STEPS if module in reach[s]}, module
    assert len(set.union(*reach.values())) > 60  # the graph is not empty


def test_each_module_voids_the_failures_of_exactly_the_steps_that_reach_it(copies, graph):
    reach = {step: reached(graph, step) for step in STEPS}
    for module in filter(lambda m: not is_package_or_root(m), MODULES):
        path = copies.joinpath(places.PACKAGE_NAME, *module.split(".")).with_suffix(".py")
        assert changed_by(path, code.run_hash) == {s for s in STEPS if module in reach[s]}, module
    assert all("core.errors" in names for names in reach.values())


@pytest.mark.parametrize("step", STEPS)
def test_a_script_changes_the_hash_of_its_own_step(copies, step):
    path = copies / "scripts" / f"{step}.py"
    assert changed_by(path) == changed_by(path, code.run_hash) == {step}


def test_plumbing_is_there():
    assert code.PLUMBING - set(MODULES) <= {"core.figures"}


def test_packages_hold_no_code():
    """What a package's own file holds is in no step's hash."""
    for path in places.PACKAGE.glob("*/__init__.py"):
        (docstring,) = ast.parse(path.read_text()).body
        assert isinstance(docstring.value, ast.Constant), path


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("reports/data/templates/style.css", {"night_report", "tile_report", "calibration_report"}),
        ("catalogs/data/vla_calibrators_20cm.csv", {"calibrate"}),
        ("conversion/data/dsa110.lua", {"convert"}),
        ("reports/data/templates/script.js", {"night_report"}),
    ],
)
def test_a_changed_data_file_changes_the_steps_that_use_it(copies, file, changed):
    found = changed_by(copies / places.PACKAGE_NAME / file)
    assert changed <= found and not found & {"index", "night_qa", "lightcurves"} - changed


def test_all_data_files_are_covered(copies):
    package = copies / places.PACKAGE_NAME
    files = {path for path in package.glob("*/data/**/*") if path.is_file()}
    named = {path for source in package.rglob("*.py") for path in code._data(source)}
    assert files and files == named


def test_an_unknown_step_has_the_hash_of_the_whole_package(copies):
    code.run_hash.cache_clear()
    before = code.run_hash(None)
    with (copies / places.PACKAGE_NAME / "simulation" / "season.py").open("a") as file:
        file.write("\n")
    code.run_hash.cache_clear()
    assert code.run_hash(None) != before


def test_every_rule_carries_the_hash_of_its_step():
    for path in (places.repository() / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.M)[1:]:
            assert re.search(r"code=code\(", rule), rule.split(":")[0]
