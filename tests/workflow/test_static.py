"""Formatting, lint, and agreement of files that repeat each other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
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


def locked():
    """Return the versions that the lock file allows for each package, with their markers."""
    pins = {}
    for line in (REPO / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([\w.-]+)==(\S+)(?: ; (.*?))? *\\$", line):
            pins.setdefault(match[1], []).append((match[2], match[3] or ""))
    return pins


def python_version(environment):
    (pin,) = (d for d in environment["dependencies"] if str(d).startswith("python="))
    return tuple(map(int, pin.removeprefix("python=").split(".")))


def allowed(marker, python):
    """Evaluate the only marker that the lock file uses."""
    match = re.fullmatch(r"python_full_version (<|>=) '(\d+)\.(\d+)'", marker)
    if not match:
        return not marker
    bound = (int(match[2]), int(match[3]))
    return python < bound if match[1] == "<" else python >= bound


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda p: p.stem)
def test_conda_environments_are_pinned_like_the_lock_file(path):
    environment = yaml.safe_load(path.read_text())
    assert environment["channels"][0] == "conda-forge"
    assert set(environment["channels"]) <= {"conda-forge", "i4ds", "pkgw-forge"}
    python, pins = python_version(environment), locked()
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    for pin in pip:
        name, version = pin.split("==")
        versions = [v for v, marker in pins[name] if allowed(marker, python)]
        assert version in versions, f"{path.name}: {pin}, but the lock file has {versions}"
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
    pins = locked()
    for name in names:
        assert name in pins, f"{name} is not in requirements.lock"
        assert f"`{name}`" in documented, f"docs/dependencies.md does not say why {name}"


def test_bash_launcher_parses():
    run("bash", "-n", "contimg")
