"""Formatting, lint, and agreement of files that repeat each other."""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml

from dsa110_contimg.core import code, places
from support import REPO
from support.steps import run_step

BIN = Path(sys.executable).parent
sys.path.append(str(REPO / "tools"))
import pin_environments  # noqa: E402
import write_reference  # noqa: E402

ENVIRONMENTS = sorted((REPO / "workflow/envs").glob("*.yaml"))


def run(*command):
    env = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_python_format():
    run(BIN / "ruff", "format", "--check", ".")


def test_python_lint():
    run(BIN / "ruff", "check", ".")


def test_types():
    run(BIN / "mypy", "--cache-dir", REPO / ".mypy_cache")


def test_packages_import_only_from_below():
    run(BIN / "lint-imports")


def test_snakemake_format():
    run(BIN / "snakefmt", "--check", "Snakefile", "workflow")


def test_snakemake_lint(dag_folder):
    done = dag_folder.snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda p: p.stem)
def test_conda_environments_are_pinned_like_the_lock_file(path):
    environment = yaml.safe_load(path.read_text())
    assert environment["channels"][0] == "conda-forge"
    assert set(environment["channels"]) <= {"conda-forge", "i4ds", "pkgw-forge"}
    remedy = "run: ./contimg exec python tools/pin_environments.py"
    assert pin_environments.pinned(path.read_text()) == path.read_text(), remedy
    for tool in (d for d in environment["dependencies"] if isinstance(d, str) and d != "pip"):
        assert "=" in tool, f"{path.name}: {tool} is not pinned"


def test_every_rule_names_an_environment_that_exists():
    rules = "".join(p.read_text() for p in (REPO / "workflow/rules").glob("*.smk"))
    used = set(re.findall(r'"\.\./envs/(\w+\.yaml)"', rules))
    assert used == {path.name for path in ENVIRONMENTS}


def test_direct_dependencies_are_locked_and_explained():
    project = (REPO / "pyproject.toml").read_text()
    blocks = re.findall(r"^(?:dependencies|test) = \[(.*?)^\]", project, re.S | re.M)
    assert len(blocks) == 2
    names = re.findall(r'"([\w-]+)', "".join(blocks))
    documented = (REPO / "docs/development/dependencies.md").read_text()
    pins = pin_environments.locked((3, 11))
    for name in names:
        assert name in pins, f"{name} is not in requirements.lock"
        assert f"`{name}`" in documented, (
            f"docs/development/dependencies.md does not say why {name}"
        )


def test_bash_launcher_parses():
    run("bash", "-n", "contimg")


#: Where the distribution's name is not the module's.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "astropy_healpix": "astropy-healpix",
    "casacore": "python-casacore",
    "erfa": "pyerfa",
    "yaml": "pyyaml",
}


def third_party(step):
    """Return the distributions that a step's script and what it reaches import, CASA left out."""
    script = places.script(step)
    names = set()
    reached = (
        places.PACKAGE.joinpath(*m.split(".")) for m in code.modules_of(script, {"core.casa"})
    )
    for path in (script, *(path.with_suffix(".py") for path in reached)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    ours = {places.PACKAGE_NAME, *sys.stdlib_module_names}
    return {DISTRIBUTIONS.get(n, n) for n in names - ours}


def rules():
    """Yield rule, its step, and environment."""
    for path in sorted((REPO / "workflow/rules").glob("*.smk")):
        for text in re.split(r"^rule ", path.read_text(), flags=re.M)[1:]:
            environment = re.search(r"envs/(\w+\.yaml)", text)[1]
            yield text.split(":")[0], re.search(r'code\("(\w+)"\)', text)[1], environment


RULES = list(rules())


@pytest.mark.parametrize(("rule", "step", "environment"), RULES)
def test_a_rules_environment_has_what_its_step_imports(rule, step, environment):
    content = yaml.safe_load((REPO / "workflow/envs" / environment).read_text())
    (pip,) = (d["pip"] for d in content["dependencies"] if isinstance(d, dict))
    assert third_party(step) <= {pin.split("==")[0] for pin in pip}, rule


def test_a_rule_runs_the_step_whose_code_it_names():
    for path in (REPO / "workflow/rules").glob("*.smk"):
        for text in re.split(r"^rule ", path.read_text(), flags=re.M)[1:]:
            (script,) = re.findall(r"\bstep\(\s*\"(\w+)\",", text)
            assert script == re.search(r'code\("(\w+)"\)', text)[1], text.split(":")[0]


def test_every_step_script_has_a_rule():
    scripts = {path.stem for path in (REPO / "workflow/scripts").glob("*.py")}
    assert scripts == {step for _, step, _ in RULES}


@pytest.mark.parametrize("step", sorted({step for _, step, _ in RULES}))
def test_every_step_has_help(step, capsys):
    with pytest.raises(SystemExit) as stop:
        run_step(step, "--help")
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_every_module_is_described():
    text = (REPO / "docs/development/architecture.md").read_text()
    modules = {p.stem for p in places.PACKAGE.glob("*/[a-z]*.py")}
    assert {name for name in modules if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("name", write_reference.DERIVED)
def test_derived_files_are_in_step_with_the_models(name):
    remedy = "run: ./contimg exec python tools/write_reference.py"
    assert (REPO / name).read_text() == write_reference.DERIVED[name](), remedy


PACKAGES = {path.parent.name: path for path in places.PACKAGE.glob("*/__init__.py")}


@functools.cache
def imports():
    return grimp.build_graph(places.PACKAGE_NAME, cache_dir=None)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_package_says_who_imports_it(name):
    """Its second line names them, or all others but those that it names."""
    _, words = ast.literal_eval(PACKAGES[name].read_text().strip()).strip().split("\n\n")
    said = set(re.findall(r"\w+", words.split(";")[0]))
    named = said & PACKAGES.keys() - {name}
    if "all" in said:
        named = PACKAGES.keys() - named - {name}
    graph = imports()
    inside = f"{places.PACKAGE_NAME}.{name}"
    found = {
        importer.split(".")[1]
        for module in graph.find_descendants(inside) | {inside}
        for importer in graph.find_modules_that_directly_import(module)
    }
    assert found & PACKAGES.keys() - {name} == named


def test_what_a_module_lists_is_what_others_use():
    """The reference of the API shows what ``__all__`` lists."""
    missing = []
    for path in (*places.PACKAGE.rglob("*.py"), *(REPO / "workflow/scripts").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            above = path.parents[node.level - 1] if node.level else places.PACKAGE.parent
            source = above.joinpath(*node.module.split(".")).with_suffix(".py")
            listed = (
                re.search(r"^__all__ = (\[.*?\])$", source.read_text(), re.S | re.M)
                if (source.is_relative_to(places.PACKAGE) and source.is_file())
                else None
            )
            if listed:
                names = {alias.name for alias in node.names} - {"F"}
                missing += [f"{source.name}: {n}" for n in names - {*ast.literal_eval(listed[1])}]
    assert missing == []
