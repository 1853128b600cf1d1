"""Any command may call `sudo apt-get`: installing only by `setup`, `demo`, `test`."""

import os
import shutil
import subprocess
import sys

import pytest

from support import REPO

#: Programs by which anything is installed. Each notes that it was called.
INSTALLERS = ("sudo", "apt-get", "pip", "conda", "mamba", "micromamba")
#: What the launcher itself needs.
NEEDED = ("bash", "env", "dirname", "readlink", "sha256sum", "cut", "sed", "cat", "id", "mkdir")


@pytest.fixture
def machine(tmp_path):
    """Return what runs the launcher on a machine with neither environment nor WSClean."""
    repo, folder = tmp_path / "repo", tmp_path / "bin"
    folder.mkdir()
    shutil.copytree(REPO / "profiles", repo / "profiles")
    shutil.copytree(REPO / "src", repo / "src")
    for path in (REPO / "contimg", *REPO.glob("requirements*.lock")):
        shutil.copy(path, repo)
    for name in (*NEEDED, "rm", "flock", "touch", "ln"):
        (folder / name).symlink_to(shutil.which(name))
    for name in INSTALLERS:
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/calls\nexit 1\n')
        (folder / name).chmod(0o755)
    # No user can become root but by sudo; pip is called as a module of Python, which notes it.
    (folder / "id").unlink()
    (folder / "id").write_text("#!/bin/sh\necho 1000\n")
    (folder / "id").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()

    def run(*arguments):
        done = subprocess.run(
            [str(repo / "contimg"), *arguments],
            cwd=tmp_path,
            env={"PATH": str(folder), "CONTIMG_HOME": str(home), "CONTIMG_PYTHON": sys.executable},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        calls = tmp_path / "calls"
        called = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, done.stdout + done.stderr, called, sorted(os.listdir(home))

    return run


@pytest.mark.parametrize("command", ["tick", "run", "status", "check", "exec", "report", "watch"])
def test_a_command_that_finds_nothing_set_up_says_so_in_one_line(machine, command):
    status, output, called, made = machine(command)
    assert (status, called, made) == (4, [], [])
    (line,) = output.splitlines()
    assert line.startswith("contimg: there is no environment") and "contimg setup'" in line


def test_set_up_asks_nobody_for_a_password(machine):
    """Under cron nobody is there to type one."""
    status, output, called, _ = machine("setup")
    assert status == 4 and "cannot install wsclean aoflagger" in output, output
    assert called and all(call.startswith("sudo -n ") for call in called)


def test_help_needs_nothing(machine):
    status, output, called, made = machine("--help")
    assert status == 0 and "commands" in output and "setup" in output
    assert (called, made) == ([], [])
