"""Formatting, lint, and agreement of files that repeat each other."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dsa110_contimg import planning

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
sys.path.append(str(REPO / "workflow/scripts"))
import pin_environments  # noqa: E402

ENVIRONMENTS = sorted((REPO / "workflow/envs").glob("*.yaml"))


def run(*command):
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_python_format():
    run(BIN / "ruff", "format", "--check", ".")


def test_python_lint():
    run(BIN / "ruff", "check", ".")


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
    remedy = "run: ./contimg exec python workflow/scripts/pin_environments.py"
    assert pin_environments.pinned(path.read_text()) == path.read_text(), remedy
    for tool in (d for d in environment["dependencies"] if isinstance(d, str) and d != "pip"):
        assert "=" in tool, f"{path.name}: {tool} is not pinned"


def test_every_rule_names_an_environment_that_exists():
    rules = "".join(p.read_text() for p in (REPO / "workflow/rules").glob("*.smk"))
    used = set(re.findall(r'"\.\./envs/(\w+\.yaml)"', rules))
    assert used == {path.name for path in ENVIRONMENTS}


def test_direct_dependencies_are_locked_and_explained():
    project = (REPO / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", project, re.S | re.M)[1]
    names = re.findall(r'"([\w-]+)', block)
    documented = (REPO / "docs/dependencies.md").read_text()
    pins = pin_environments.locked((3, 11))
    for name in names:
        assert name in pins, f"{name} is not in requirements.lock"
        assert f"`{name}`" in documented, f"docs/dependencies.md does not say why {name}"


def test_bash_launcher_parses():
    run("bash", "-n", "contimg")


#: Where the distribution's name is not the module's.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "astropy_healpix": "astropy-healpix",
    "casacore": "python-casacore",
    "erfa": "pyerfa",
    "radio_beam": "radio-beam",
    "yaml": "pyyaml",
}


def third_party(module):
    """Return the distributions that a step's own modules import."""
    names = set()
    for name in planning._closure(module) | {"products", "config", "external", "cli"}:
        tree = ast.parse((REPO / f"src/dsa110_contimg/{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(n, n) for n in names - sys.stdlib_module_names}


def rules():
    """Yield rule, module of its step, and environment."""
    for path in sorted((REPO / "workflow/rules").glob("*.smk")):
        for text in re.split(r"^rule ", path.read_text(), flags=re.M)[1:]:
            environment = re.search(r"envs/(\w+\.yaml)", text)[1]
            yield text.split(":")[0], re.search(r'code\("(\w+)"\)', text)[1], environment


@pytest.mark.parametrize(("rule", "module", "environment"), list(rules()))
def test_a_rules_environment_has_what_its_step_imports(rule, module, environment):
    content = yaml.safe_load((REPO / "workflow/envs" / environment).read_text())
    (pip,) = (d["pip"] for d in content["dependencies"] if isinstance(d, dict))
    assert third_party(module) <= {pin.split("==")[0] for pin in pip}, rule


def test_every_module_is_described():
    text = (REPO / "docs/architecture.md").read_text()
    modules = {path.stem for path in (REPO / "src/dsa110_contimg").glob("[a-z]*.py")}
    assert {name for name in modules if f"`{name}`" not in text} == set()
