"""What keeps the repository in order beside its code: spelling, scripts, version, clean clones."""

import datetime as dt
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dsa110_contimg
from dsa110_contimg.core import places
from support import REPO

BIN = Path(sys.executable).parent


def run(*command, **options):
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def files():
    """Every file of the repository that is or would be in a commit."""
    done = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if done.returncode:
        pytest.skip("no git here")
    return [name for name in done.stdout.splitlines() if (REPO / name).is_file()]


def is_shell(name):
    with (REPO / name).open("rb") as file:
        return re.match(rb"#!.*\b(ba|da)?sh\b", file.readline()) is not None


def test_shell_scripts_hold_no_trap(files):
    scripts = [name for name in files if is_shell(name)]
    assert {"contimg", ".ci/run"} <= set(scripts)
    done = run(BIN / "shellcheck", *scripts)
    assert done.returncode == 0, done.stdout


def test_words_are_spelled_right(files):
    done = run(BIN / "codespell", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hooks_run_what_the_tests_run():
    config = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())
    (local,) = config["repos"]
    assert local["repo"] == "local"
    programs = {hook["entry"].split()[2] for hook in local["hooks"]}
    assert programs == {"ruff", "snakefmt", "shellcheck", "codespell"}
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith("./contimg exec ")
        assert (BIN / hook["entry"].split()[2]).exists()


# --- one version ----------------------------------------------------------------------------------


def releases():
    """Return (version, date) of each release in the changelog, newest first."""
    text = (REPO / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings[0] == "[Unreleased]"
    found = [re.fullmatch(r"\[([\d.]+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in headings[1:]]
    assert all(found), headings
    return [match.groups() for match in found]


def test_the_version_has_one_source():
    """`__version__`; the package's metadata read it, and what must repeat it agrees."""
    newest, date = releases()[0]
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert newest == dsa110_contimg.__version__
    assert (citation["version"], citation["date-released"]) == (newest, dt.date.fromisoformat(date))
    project = (REPO / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert 'attr = "dsa110_contimg.__version__"' in project


def test_releases_are_in_order():
    listed = releases()
    order = [(tuple(map(int, version.split("."))), date) for version, date in listed]
    assert order == sorted(order, reverse=True)


def test_the_package_says_that_it_is_typed():
    assert (places.PACKAGE / "py.typed").exists()
    assert '"py.typed"' in (REPO / "pyproject.toml").read_text()


# --- a clean clone stays clean ------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path):
    """An empty repository with the patterns of this one."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text((REPO / ".gitignore").read_text())
    return tmp_path


def test_what_set_up_demo_test_and_benchmarks_leave_is_ignored(clone):
    (clone / ".venv").symlink_to("/somewhere/venv")  # a link, to which `.venv/` would not apply
    for name in (
        *(".contimg/venv/ready", ".snakemake/log", "demo/incoming/x.hdf5", "results/index.sqlite"),
        *("benchmarks/results/imaging.md", "site/index.html", "src/a/__pycache__/b.pyc"),
        *(".pytest_cache/x", ".ruff_cache/x", ".mypy_cache/x", ".import_linter_cache/x"),
        *(".hypothesis/x", "casa-20260213-043210.log", "calibrate.last"),
    ):
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    done = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert done.stdout == "?? .gitignore\n"


def test_no_link_of_the_launcher_is_kept(files):
    assert ".venv" not in files
