"""One run at a time on a results folder: the others say so and leave with exit status 5."""

import os
import shlex
import subprocess
import sys
import time
from collections import Counter

import pytest

from support import REPO
from support.night import Operations, raw_groups

BUSY = 5


@pytest.fixture
def night(tmp_path):
    made = Operations.make(tmp_path / "work")
    raw_groups(made.incoming, 2)
    return made


def wait_for(condition, what, process=None):
    for _ in range(600):
        if condition():
            return
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen")


def holds(night):
    lock = night.results / ".lock"
    return lock.exists() and lock.read_text() != ""


def elsewhere(night, folder, results):
    """Return what calls a command on the same folders from another one."""
    folder.mkdir()
    config = [
        f"incoming={night.incoming}",
        f"results={results}",
        f"catalog={night.path / 'demo/catalog.csv'}",
        "inventory={wait_s: 0}",
        "operations={close_after_s: 0, min_free_gb: 0.1}",
    ]

    def call(*arguments):
        command = [sys.executable, "-m", "dsa110_contimg", *arguments, "--config", *config]
        done = subprocess.run(
            command, cwd=folder, env=night.env, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    return call


def begun(night):
    return Counter(job for what, job in night.ledger() if what == "begin")


def test_nobody_meets_a_run_at_work(night, tmp_path):
    """Ticks, runs, also from another folder and through a link, and all that changes products."""
    link = tmp_path / "link"
    link.symlink_to(night.results)
    away = elsewhere(night, tmp_path / "away", link)
    run = night.start("run", STUB_SECONDS="2")
    wait_for(lambda: holds(night), "the run's start", run)
    told = f"'contimg run' (process {run.pid} on "
    for call, command in (
        (night.call, ("tick",)),
        (night.call, ("run",)),
        (away, ("run",)),
        (away, ("tick",)),
        (night.call, ("purge", "--yes")),
        (night.call, ("retry", "all")),
    ):
        status, output = call(*command)
        assert run.poll() is None, f"{command}: the run was over before, which tells nothing"
        assert status == BUSY, (command, output)
        line = output.strip().splitlines()[-1]
        assert (
            line.startswith(f"contimg {command[0]}: ") and told in line and "nothing done" in line
        )
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    # Every job was done once, and what turned away did nothing.
    assert set(begun(night).values()) == {1}
    assert len(list(night.results.glob("runs/*.json"))) == 1
    assert away("tick")[0] == 0


def test_of_two_ticks_at_once_one_works(night):
    ticks = [night.start("tick", STUB_SECONDS="0.5") for _ in range(2)]
    outputs = [tick.communicate(timeout=300)[0] for tick in ticks]
    assert sorted(tick.returncode for tick in ticks) == [0, BUSY], outputs
    assert set(begun(night).values()) == {1}
    assert len(list(night.results.rglob("groups/*/*.photometry.csv"))) == 2


@pytest.mark.slow
def test_plain_snakemake_holds_the_folder_too(night):
    """Whoever starts Snakemake by hand is no worse off than with the launcher."""
    command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile")]
    command += night.command()[-4:]
    env = {**night.env, "STUB_SECONDS": "2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    by_hand = subprocess.Popen(command, cwd=night.path, env=env, **pipes)
    wait_for(lambda: holds(night), "Snakemake's start", by_hand)
    status, output = night.call("tick")
    assert status == BUSY and "'contimg snakemake'" in output, output
    output, _ = by_hand.communicate(timeout=300)
    assert by_hand.returncode == 0, output
    raw_groups(night.incoming, 2, day=1)
    tick = night.start("tick", STUB_SECONDS="2")
    wait_for(lambda: holds(night), "the tick's start", tick)
    done = subprocess.run(command, cwd=night.path, env=night.env, **pipes, check=False)
    assert tick.poll() is None
    assert done.returncode != 0
    # In this working folder Snakemake's own lock may turn it away before ours does.
    words = ("is at work on this results folder; nothing done", "Directory cannot be locked")
    assert any(text in done.stdout for text in words), done.stdout
    output, _ = tick.communicate(timeout=300)
    assert tick.returncode == 0, output
    tiles = [job for job in begun(night).items() if "groups" in job[0]]
    assert {times for _, times in tiles} == {1}


@pytest.mark.slow
def test_a_dry_run_and_status_need_no_lock(night):
    tick = night.start("tick", STUB_SECONDS="2")
    wait_for(lambda: holds(night), "the tick's start", tick)
    assert night.call("status")[0] == 0
    assert night.call("clean")[0] == night.call("purge")[0] == 0
    command = [*night.command("run"), "--", "--dry-run", "--quiet", "all"]
    dry = subprocess.run(command, cwd=night.path, env=night.env, capture_output=True, text=True)
    assert dry.returncode == 0, shlex.join(command) + dry.stdout + dry.stderr
    assert tick.poll() is None
    assert tick.wait(timeout=300) == 0
    assert os.path.exists(night.results / "index.sqlite")
