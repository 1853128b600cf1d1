"""The shell script `contimg`: what it installs when it is asked to, and only then.

It runs in a copy of the repository's top, on a Python environment that notes what it is asked for.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from support import REPO

#: Stands in for the environment's Python: pip fails where the file `offline` is.
PYTHON = """#!/bin/sh
echo "$@" >> {folder}/calls
[ ! -e {folder}/offline ] || exit 1
while [ $# -gt 0 ]; do [ "$1" != --target ] || mkdir -p "$2"; shift; done
"""


@pytest.fixture
def contimg(tmp_path):
    """Return a function that runs the script and gives its exit status and PYTHONPATH."""
    repo, home = tmp_path / "repo", tmp_path / "home"
    shutil.copytree(REPO / "profiles", repo / "profiles")
    for path in (REPO / "contimg", *REPO.glob("requirements*.lock")):
        shutil.copy(path, repo)
    digest = hashlib.sha256((repo / "requirements.lock").read_bytes()).hexdigest()[:12]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    venv = home / f"venv-{version}-{digest}"
    (venv / "bin").mkdir(parents=True)
    (venv / f"lib/python{version}/site-packages").mkdir(parents=True)
    (venv / "ready").touch()
    programs = {"python": PYTHON.format(folder=tmp_path), "wsclean": "", "aoflagger": ""}
    for name, text in programs.items():
        (venv / "bin" / name).write_text(text)
        (venv / "bin" / name).chmod(0o755)

    def run(command, *arguments):
        words = ["exec", "sh", "-c", "echo $PYTHONPATH"] if command != "setup" else []
        done = subprocess.run(
            [repo / "contimg", *words, command, *arguments],
            cwd=tmp_path,
            env={
                "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
                "CONTIMG_HOME": str(home),
                "CONTIMG_PYTHON": sys.executable,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.strip() or done.stderr

    return run


def test_the_workstation_has_no_plugin(contimg, tmp_path):
    status, path = contimg("tick", "--profile", "default")
    assert (status, path) == (0, str(tmp_path / "repo/src"))
    assert contimg("tick") == (0, path)
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("option", [("--profile", "slurm"), ("--workflow-profile=profiles/slurm",)])
def test_the_plugin_of_a_profile_is_installed_once_when_asked_for(contimg, tmp_path, option):
    (tmp_path / "profiles").symlink_to(tmp_path / "repo/profiles")
    status, message = contimg("run", *option)
    assert status == 4
    assert "plugin for slurm is not installed: run" in message and "/contimg setup" in message
    assert not (tmp_path / "calls").exists()
    assert contimg("setup", *option)[0] == 0
    status, path = contimg("run", *option)
    assert status == 0, path
    source, plugin = path.split(":")
    assert source == str(tmp_path / "repo/src")
    assert re.fullmatch(rf"{tmp_path}/home/slurm-\w{{12}}", plugin)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.endswith(f"--target {plugin} -r {tmp_path}/repo/requirements-slurm.lock")
    assert "--require-hashes --no-deps" in call
    assert contimg("setup", *option)[0] == 0
    assert contimg("tick", *option) == (0, path)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_a_profile_of_a_site_does_so_too(contimg, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("# ours\nexecutor: slurm\njobs: 5\n")
    assert contimg("setup", "--profile", "mine")[0] == 0
    _, path = contimg("tick", "--profile", "mine")
    assert "/home/slurm-" in path


def test_a_plugin_that_cannot_be_installed_is_named(contimg, tmp_path):
    (tmp_path / "offline").touch()
    status, message = contimg("setup", "--profile", "slurm")
    assert status == 4
    assert f"plugin for slurm could not be installed; see the end of {tmp_path}/home" in message
    (tmp_path / "offline").unlink()
    assert contimg("setup", "--profile", "slurm")[0] == 0


def test_the_plugins_lock_goes_with_that_of_the_environment():
    """It holds what the environment lacks, and nothing that the environment has."""
    names = {
        name: set(re.findall(r"^([\w.-]+)==", (REPO / name).read_text(), re.M))
        for name in ("requirements.lock", "requirements-slurm.lock")
    }
    assert not names["requirements.lock"] & names["requirements-slurm.lock"]
    project = (REPO / "pyproject.toml").read_text()
    extra = re.search(r"^slurm = \[(.*)\]", project, re.M)[1]
    assert names["requirements-slurm.lock"] == set(re.findall(r'"([\w-]+)', extra))
