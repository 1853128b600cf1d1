"""Formatting, lint, and agreement of files that repeat each other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
