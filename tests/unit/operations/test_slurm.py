"""The jobs of a results folder among those of others, and why the cluster killed one.

SLURM's programs are stand-ins here; tests/operations has the real ones.
"""

import json
import logging
import os
import time
from types import SimpleNamespace

import pytest

from dsa110_contimg.core.errors import MachineError, ToolAbsent
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import failures, locking, slurm
from snakemake_logger_plugin_contimg import EVENTS, LogHandler
from support import REPO

GROUP = "20260210T011325"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script on an otherwise empty PATH; return what it was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name, script):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\n{script}\n')
        path.chmod(0o755)
        return tmp_path / f"{name}.calls"

    return make


def test_profiles_of_slurm_are_told_from_others(tmp_path):
    repo = REPO
    assert slurm.serves(repo / "profiles/slurm")
    assert not slurm.serves(repo / "profiles/default")
    (tmp_path / "config.yaml").write_text("executor: slurm\n")
    assert slurm.serves(tmp_path)
    assert slurm.serves(tmp_path / "config.yaml")
    assert not slurm.serves(tmp_path / "absent")


@pytest.fixture
def folder(tmp_path):
    """Return a results folder that was held before, and so has an id."""

    def make(name="results"):
        with locking.hold(tmp_path / name, "tick"):
            return tmp_path / name

    return make


def test_each_results_folder_has_its_own_jobs(folder, tmp_path):
    names = {slurm.job_prefix(folder(name)) for name in ("results", "other")}
    assert len(names) == 2
    (tmp_path / "link").symlink_to(tmp_path / "results")
    assert slurm.job_prefix(tmp_path / "link") in names
    assert all(len(name) <= 50 and name.replace("-", "").isalnum() for name in names)


def test_only_jobs_of_the_results_folder_are_cancelled(tmp_path, folder, program):
    mine, other = (slurm.job_prefix(folder(name)) for name in ("mine", "other"))
    rows = f"echo '1 RUNNING {mine}_a'; echo '2 RUNNING {other}_b'; echo '3 RUNNING x y'"
    program("squeue", f"[ -e {tmp_path}/done ] || {{ {rows}; }}")
    calls = program("scancel", f": > {tmp_path}/done")
    assert slurm.settle(tmp_path / "mine") == {}
    assert calls.read_text() == "1\n"
    assert slurm.settle(tmp_path / "mine") == {}
    assert calls.read_text() == "1\n"


def test_an_unknown_job_that_does_not_end_keeps_the_run_from_starting(
    tmp_path, folder, program, monkeypatch
):
    monkeypatch.setattr(slurm, "CANCEL_S", 0.0)
    program("squeue", f"echo '7 COMPLETING {slurm.job_prefix(folder())}_a'")
    program("scancel", "")
    with pytest.raises(MachineError, match=r"do not end on the cluster: 7; see 'scontrol show"):
        slurm.settle(folder())


def test_a_job_that_does_not_end_holds_back_what_it_writes_to(
    tmp_path, folder, program, monkeypatch
):
    """It is waited for once, and forgotten when it has ended."""
    results = folder()
    slurm.write_books(results / "logs/slurm", {"7": [GROUP], "8": ["2026-02-10"]})
    row = f"7 COMPLETING {slurm.job_prefix(results)}_a"
    program("squeue", f"[ -e {tmp_path}/ended ] || echo '{row}'")
    program("scancel", "")
    monkeypatch.setattr(slurm, "CANCEL_S", 0.0)
    why = "job 7 does not end on the cluster (completing)"
    assert slurm.settle(results) == {GROUP: why}
    monkeypatch.setattr(slurm, "CANCEL_S", 1e9)
    assert slurm.settle(results) == {GROUP: why}
    assert slurm.lingering(results) == [(GROUP, why)]
    (tmp_path / "ended").touch()
    assert slurm.settle(results) == {}
    assert slurm.lingering(results) == []


def test_a_cluster_that_is_away_is_named(tmp_path, folder, program):
    with pytest.raises(ToolAbsent, match="squeue is not installed, but the profile is one for"):
        slurm.settle(folder())
    program("squeue", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(MachineError, match="SLURM does not answer: squeue: squeue: error: Unable"):
        slurm.settle(folder())


FACTS = "JobId=4 JobName=a b JobState={} Reason=None TimeLimit=00:30:00 MinMemoryNode=8000M"


@pytest.mark.parametrize(
    ("state", "log", "cause", "words"),
    [
        # As SLURM 22.05 writes them; the second line of each is what tells.
        (
            "FAILED",
            "slurmstepd-n1: error: StepId=1.0 exceeded memory limit (2522 > 2097), being killed\n"
            "slurmstepd-n1: error: Exceeded job memory limit\n",
            "compute",
            "it exceeded its memory of 8000MB; see mem_mb",
        ),
        (
            "FAILED",
            "srun: error: n1: task 0: Out Of Memory\n"
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.batch cgroup.\n",
            "compute",
            "it exceeded its memory of 8000MB; see mem_mb",
        ),
        ("OUT_OF_MEMORY", "", "compute", "it exceeded its memory"),
        (
            "TIMEOUT",
            "slurmstepd-n1: error: *** STEP 4.0 ON n1 CANCELLED AT 2026-11-21T10:00:00 DUE TO TIME "
            "LIMIT ***\n",
            "compute",
            "it exceeded its time of 00:30:00; see runtime",
        ),
        ("NODE_FAIL", "", "transient", "its node failed"),
        (
            "CANCELLED",
            "slurmstepd-n1: error: *** JOB 4 ON n1 CANCELLED AT 2026-11-21T10:00:00 ***\n",
            "transient",
            "it was cancelled",
        ),
    ],
)
def test_kills_by_the_cluster_are_told_apart(tmp_path, program, state, log, cause, words):
    program("scontrol", f"echo {FACTS.format(state)}")
    (tmp_path / "4.log").write_text("a step's own words\n" + log)
    kill = slurm.why_killed("4", tmp_path / "4.log")
    assert kill.cause == cause
    assert kill.message.startswith("killed by the cluster (job 4): ")
    assert words in kill.message


def test_a_step_that_fails_by_itself_was_not_killed(tmp_path, program):
    program("scontrol", f"echo {FACTS.format('FAILED')}")
    (tmp_path / "4.log").write_text(
        "Error in rule image:\nsrun: error: n1: task 0: Exited with exit code 1\n"
    )
    assert slurm.why_killed("4", tmp_path / "4.log") is None


def test_a_kill_is_known_from_the_log_when_the_controller_is_away(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "4.log").write_text("slurmstepd: error: Exceeded job memory limit\n")
    assert "it exceeded its memory; see" in slurm.why_killed("4", tmp_path / "4.log").message
    assert slurm.why_killed("4", tmp_path / "absent.log") is None


def event(end, attempt, rule="image", **more):
    return {
        "end": end,
        "attempt": attempt,
        "rule": rule,
        "wildcards": {"night": "2026-02-10", "group": GROUP},
        **more,
    }


KILL = {"cause": "compute", "message": "killed by the cluster"}


def test_a_job_that_succeeds_at_last_has_not_failed():
    events = [event("failed", 1, kill=KILL), event("done", 2)]
    assert failures.failed(events) == []
    (failure,) = failures.retried(events)
    assert (failure.state, failure.attempts, failure.message) == (
        "retried",
        1,
        "killed by the cluster",
    )


def test_all_attempts_of_a_run_count(tmp_path):
    layout = Layout(tmp_path)
    events = [event("failed", attempt, kill=KILL) for attempt in (1, 2, 3)]
    (last,) = failures.failed(events)
    assert [f.attempts for f in failures.retried(events)] == [1, 2]
    failure = failures.note(layout, last, "as it is")
    assert (failure.attempts, failure.state) == (3, "quarantined")
    assert failures.read_all(layout, ["2026-02-10"]) == [failure]


def test_attempts_of_several_runs_add_up(tmp_path):
    layout = Layout(tmp_path)
    for attempts, state in ((1, "waiting"), (2, "waiting"), (3, "quarantined")):
        failure = failures.note(layout, event("failed", 1, kill=KILL), "as it is")
        assert (failure.attempts, failure.state) == (attempts, state)
    failure = failures.note(layout, event("failed", 1, kill=KILL), "changed")
    assert (failure.attempts, failure.state) == (1, "waiting")


# --- what the logger tells of jobs that travel together -----------------------------------------


@pytest.fixture
def logger(tmp_path, monkeypatch):
    """Return the logger, with three jobs of a tile at work, and what it has told."""
    told = tmp_path / "events"
    monkeypatch.setenv(EVENTS, str(told))
    handler = LogHandler.__new__(LogHandler)
    handler.__post_init__()
    for jobid, rule in enumerate(("apply", "image", "tile_photometry")):
        info = {"jobid": jobid, "rule_name": rule, "wildcards": {"group": GROUP}}
        info |= {"log": [str(tmp_path / f"{rule}.log")], "shellcmd": f"{rule} > log"}
        handler.emit(record("job_info", **info))
    return handler, lambda: [json.loads(line) for line in told.read_text().splitlines()]


def record(event, **fields):
    return SimpleNamespace(event=event, levelno=logging.ERROR, **fields)


def group_error(handler, folder, **more):
    """Report the failure of the chain as Snakemake does: as a whole, then job by job."""
    rules = ("apply", "image", "tile_photometry")
    jobs = [
        {"jobid": n, "rule_name": rule, "log": [str(folder / f"{rule}.log")]}
        for n, rule in enumerate(rules)
    ]
    aux = [str(folder / "slurm.log")]
    handler.emit(record("group_error", job_error_info=jobs[::-1], aux_logs=aux, **more))
    for job in jobs:
        handler.emit(record("job_error", aux={}, **job))


def test_of_jobs_that_travel_together_the_one_that_failed_is_told(logger, tmp_path, capsys):
    handler, told = logger
    for age, rule in ((20, "apply"), (10, "image")):  # the third never began
        (tmp_path / f"{rule}.log").write_text(f"words of {rule}\n")
        moment = time.time() - age
        os.utime(tmp_path / f"{rule}.log", (moment, moment))
    group_error(handler, tmp_path)
    assert [(e["end"], e["rule"], e["attempt"]) for e in told()] == [("failed", "image", 1)]
    assert "kill" not in told()[0]
    shown = capsys.readouterr().err
    assert "FAILED image" in shown and "words of image" in shown
    assert "words of apply" not in shown


def test_a_chain_that_the_cluster_killed_is_told_with_the_reason(logger, tmp_path, program):
    handler, told = logger
    program("scontrol", f"echo {FACTS.format('TIMEOUT')}")
    (tmp_path / "apply.log").write_text("")
    group_error(handler, tmp_path, external_jobid="4")
    for rule, jobid in (("apply", 0), ("image", 1)):  # the second attempt
        info = {"jobid": jobid, "rule_name": rule, "wildcards": {"group": GROUP}}
        handler.emit(record("job_info", log=[], shellcmd=rule, **info))
        handler.emit(record("job_finished", job_id=jobid))
    first, *later = told()
    assert (first["rule"], first["kill"]["cause"]) == ("apply", "compute")
    assert "it exceeded its time of 00:30:00" in first["kill"]["message"]
    assert [(e["end"], e["rule"], e["attempt"]) for e in later] == [
        ("done", "apply", 2),
        ("done", "image", 1),
    ]
