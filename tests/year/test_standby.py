"""Two hosts on one shared results folder: one works, the other says who does and stands by;
identity by an id in the results.

The hosts are namespaces of this machine: another name, other process numbers, another mount.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from dsa110_contimg.operations import locking, slurm
from support import REPO
from support.night import Operations, raw_groups

UNSHARE = ("unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture
def night(tmp_path):
    made = Operations.make(tmp_path / "work")
    raw_groups(made.incoming, 1)
    made.results.mkdir()
    return made


def beginning_with(night, code):
    """Return the environment in which Python begins with some code."""
    folder = night.path / "site"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{REPO / 'src'}"}


def on_other_host(night, *arguments, locks=True, **env):
    """Begin a command on a host of another name that has the results mounted elsewhere.

    Without `locks` those of other hosts are not seen there, as on file systems that keep them to
    themselves.
    """
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"this user may not make namespaces: {probe.stderr.decode().strip()}")
    mount = night.path / "mounted elsewhere"
    mount.mkdir(exist_ok=True)
    command = []
    for word in night.command(*arguments):
        command += [f"results={mount}"] if word == "incoming=incoming" else []
        command.append(word)
    if not locks:
        env |= beginning_with(night, "import fcntl; fcntl.flock = lambda *_: None")
    script = 'hostname standby && mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return subprocess.Popen(
        [*UNSHARE, "sh", "-c", script, "sh", str(night.results), str(mount), *command],
        cwd=night.path,
        env={**night.env, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def wait_for(condition, what, process):
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, f"{what} did not happen: {process.communicate()[0]}"
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen")


def at_work(night):
    return any(kind == "begin" for kind, _ in night.ledger())


@pytest.mark.parametrize("locks", [True, False], ids=["locks reach", "locks do not reach"])
def test_of_two_hosts_one_works_and_the_other_says_who(night, locks):
    tick = night.start("tick", STUB_SECONDS="1.5")
    wait_for(lambda: at_work(night), "work", tick)
    status, output = finish(on_other_host(night, "tick", locks=locks))
    assert tick.poll() is None
    assert status == 5, output
    line = output.strip().splitlines()[-1]
    assert f"'contimg tick' (process {tick.pid} on {os.uname().nodename} since 20" in line
    status, output = finish(tick)
    assert status == 0, output
    status, output = finish(on_other_host(night, "tick", locks=locks))
    assert status == 0, output  # the first has let go


def test_a_host_that_died_is_followed_after_its_lease(night):
    """Its lock goes with it where locks are honest; its silence tells where they are not."""
    begun = on_other_host(night, "tick", STUB_SECONDS="600")
    wait_for(lambda: at_work(night), "work", begun)
    left = night.results / ".tmp-4194303-standby-x.json"
    left.touch()
    os.killpg(begun.pid, 9)
    begun.communicate()
    status, output = night.call("tick")
    assert status == 5 and "on standby" in output and "takes over 5 min after" in output, output
    long_ago = time.time() - locking.LEASE_S - 1
    os.utime(night.results / ".lock", (long_ago, long_ago))
    status, output = night.call("tick")
    assert status == 0, output
    assert left.exists(), "what another host may be at work on"


def test_a_holder_that_was_taken_for_dead_ends(night):
    """The watcher finds the lock in other hands: of two holders one must go."""
    often = "from dsa110_contimg.operations import locking; locking.BEAT_S = 0.2"
    tick = night.start("tick", STUB_SECONDS="600", **beginning_with(night, often))
    wait_for(lambda: at_work(night), "work", tick)
    lock = night.results / ".lock"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"hold": "another", "host": "b"}))
    output, _ = tick.communicate(timeout=60)
    assert tick.returncode == -9 and "another run has taken over" in output


def test_the_same_folder_is_the_same_wherever_it_is_mounted(night, tmp_path):
    assert night.call("tick")[0] == 0
    there = tmp_path / "elsewhere"
    there.mkdir()
    if subprocess.run(["mount", "--bind", night.results, there], check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        assert locking.identity(there) == locking.identity(night.results) is not None
        assert slurm.job_prefix(there) == slurm.job_prefix(night.results)
    finally:
        subprocess.run(["umount", there], check=True)


def test_a_copy_of_the_folder_is_another(night, tmp_path):
    """It would cancel the original's jobs."""
    assert night.call("tick")[0] == 0
    copy = shutil.copytree(night.results, tmp_path / "copy")
    assert locking.identity(copy) is None
    with locking.hold(copy, "tick"):
        assert locking.identity(copy) != locking.identity(night.results)


def test_a_file_system_without_locks_is_refused(night):
    script = (
        "import errno, fcntl, os, sys\n"
        "def flock(*_): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "fcntl.flock = flock\n"
        "from dsa110_contimg import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, *night.command("tick")[3:]]
    done = subprocess.run(command, cwd=night.path, env=night.env, capture_output=True, text=True)
    assert done.returncode == 6, done.stderr
    assert "its file system has no locks" in done.stderr
