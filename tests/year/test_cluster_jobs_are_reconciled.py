"""A preempted or forgotten SLURM job hangs the tick for ever; a node in COMPLETING stops all ticks:
jobs reconciled with the controller, bounded waits, transient failure, requeue.

The quick tests have the real Snakemake and its plugin, and stand-ins for SLURM's programs; those of
the second tier have a real cluster.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dsa110_contimg.core import runs
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import OperationsOptions
from dsa110_contimg.operations import failures
from support import REPO, slurm_cluster
from support.dag_folder import DagFolder

PLUGINS = os.environ.get("CONTIMG_PLUGINS_SLURM", "")
needs_plugin = pytest.mark.skipif(
    not PLUGINS and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="Snakemake's plugin for SLURM is absent; './contimg setup --test' installs it",
)

#: SLURM's programs, as far as a run needs them. A submission is job 1, 2, ...; the file `fate` has
#: what the controller says of each, instead of what is true.
FAKE = """#!{python} -S
import os, pathlib, shlex, subprocess, sys
folder = pathlib.Path("{folder}")
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
fates = dict(line.split(" ", 1) for line in (folder / "fate").read_text().splitlines())
if name == "sbatch":
    ids = [int(p.stem) for p in folder.glob("*.name")]
    job = str(max(ids, default=0) + 1)
    call = next(words[i + 1] for i, w in enumerate(words) if w == "--job-name")
    (folder / (job + ".name")).write_text(call)
    wrap = next(w for w in words if w.startswith("--wrap")).partition("=")[2]
    if job not in fates:
        (folder / (job + ".sh")).write_text(wrap + "\\necho $? > " + str(folder / job) + ".end\\n")
        log = open(folder / (job + ".log"), "w")
        env = dict(os.environ, SLURM_JOB_ID=job)
        subprocess.Popen(["sh", str(folder / (job + ".sh"))], stdout=log, stderr=log, env=env)
    print(job)
elif name == "squeue":
    for path in sorted(folder.glob("*.name")):
        job, end = path.stem, folder / (path.stem + ".end")
        state = "RUNNING"
        if end.exists():
            state = "COMPLETED" if end.read_text().strip() == "0" else "FAILED"
        state = fates.get(job, state)
        if (folder / (job + ".cancelled")).exists() and state != "COMPLETING":
            state = "CANCELLED"
        at_work = "--states=all" in words or state in ("RUNNING", "COMPLETING", "SUSPENDED")
        if state == "FORGOTTEN" or not at_work:
            continue
        form = next(w for w in words if w.startswith("--format")).partition("=")[2]
        for key, value in (("%i", job), ("%T", state), ("%r", "None"), ("%j", path.read_text())):
            form = form.replace(key, value)
        print(form)
elif name == "srun":
    while words[0].startswith("-"):
        words.pop(0)
    os.execvp(words[0], words)
elif name == "scancel":
    for job in words:
        (folder / (job + ".cancelled")).touch()
elif name == "scontrol" and words[:2] == ["show", "config"]:
    print("MinJobAge = 3600 sec\\nAccountingStorageType = accounting_storage/none")
elif name == "scontrol":
    sys.exit("slurm_load_jobs error: Invalid job id specified")
"""


def fake_cluster(folder):
    """Put stand-ins for SLURM's programs where the steps' are; return what sets jobs' fates."""
    state = folder.path / "slurm"
    state.mkdir()
    for name in ("sbatch", "squeue", "srun", "scancel", "scontrol", "sinfo", "sacct"):
        program = folder.stub() / name
        program.write_text(FAKE.format(python=sys.executable, folder=state))
        program.chmod(0o755)

    def set_fates(**fates):
        lines = [f"{job.removeprefix('job')} {state}" for job, state in fates.items()]
        (state / "fate").write_text("\n".join(lines))

    set_fates()
    return set_fates


def profile_in(folder):
    """Write the shipped profile, scaled down to this machine and to the patience of a test."""
    profile = yaml.safe_load((REPO / "profiles/slurm/profile.yaml").read_text())
    del profile["set-threads"]
    profile |= {"cores": os.cpu_count(), "latency-wait": 5, "scheduler": "greedy"}
    profile["slurm-init-seconds-before-status-checks"] = 2
    profile["default-resources"]["mem_mb"] = 500
    del profile["set-resources"]
    path = folder / "profile"
    path.mkdir()
    (path / "profile.yaml").write_text(yaml.safe_dump(profile))
    return path


def start(folder, *arguments, **env):
    values = {"cluster_wait_s": 2, "min_free_gb": 0.1, "close_after_s": 0}
    known = {k: v for k, v in values.items() if k in OperationsOptions.model_fields}
    programs = (folder.stub(), Path(sys.executable).parent, os.environ["PATH"])
    options = ["flagging={engine: none}", "imaging={engine: tclean}", f"operations={known}"]
    return subprocess.Popen(
        [sys.executable, "-m", "dsa110_contimg", *arguments, "--config", *options],
        cwd=folder.path,
        env={
            **os.environ,
            "PATH": os.pathsep.join(map(str, programs)),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO / "src"), PLUGINS])),
            "CONTIMG_INVENTORY": str(folder.freeze()),
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, most_s=110):
    """Return exit status and output of a command that must end."""
    try:
        output, _ = process.communicate(timeout=most_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        pytest.fail(f"it still waited after {most_s} s:\n{output[-3000:]}")
    return process.returncode, output


@pytest.fixture
def tile(tmp_path):
    """Return a folder with a group, and the first product of it that a job makes."""
    folder = DagFolder.make(tmp_path)
    (group,) = folder.add_night(0, tiles=1)
    return folder, group, str(folder.layout.group(group, "hdf5.json"))


GIVEN_UP = {
    "FORGOTTEN": "the controller has forgotten it",
    "SUSPENDED": "it was kept from going on (suspended)",
    "REQUEUE_HOLD": "it was kept from going on (requeue_hold)",
    "COMPLETING": "its node does not confirm its end",
}
#: Each is a run of its own: the second tier has all.
LATER = sorted({*GIVEN_UP, "PREEMPTED"} - {"FORGOTTEN"})
IN_TURN = ["FORGOTTEN", *(pytest.param(state, marks=pytest.mark.slow) for state in LATER)]


@needs_plugin
@pytest.mark.parametrize("state", IN_TURN)
def test_a_run_ends_without_a_job_that_does_not(tile, state):
    """All three attempts would be preempted; the other states leave one."""
    folder, group, target = tile
    set_fates = fake_cluster(folder)
    set_fates(job1=state, job2=state, job3=state)
    profile = str(profile_in(folder.path))
    status, output = finish(start(folder, "run", target, "--profile", profile))
    assert status == 1, output
    (failure,) = failures.read_all(Layout(folder.path / "results"), ["2026-02-10"])
    assert (failure.rule, failure.what, failure.cause) == ("group", group, "transient")
    told = GIVEN_UP.get(state, "it gave way to a job of higher priority")
    assert told in failure.message
    # A job that may yet be at work is not submitted a second time beside it.
    attempts = len(list((folder.path / "slurm").glob("*.name")))
    assert attempts == (3 if state == "PREEMPTED" else 1)


@needs_plugin
def test_the_next_run_makes_what_was_given_up(tile):
    folder, _, target = tile
    set_fates = fake_cluster(folder)
    set_fates(job1="FORGOTTEN")
    profile = str(profile_in(folder.path))
    assert finish(start(folder, "run", target, "--profile", profile))[0] == 1
    status, output = finish(start(folder, "run", target, "--profile", profile))
    assert status == 0, output
    assert (folder.path / target).exists()


@needs_plugin
def test_a_node_that_does_not_answer_holds_back_its_own_group_only(tmp_path, monkeypatch):
    """A tick goes on with the other groups; it neither ends nor closes the night."""
    folder = DagFolder.make(tmp_path)
    first, second = folder.add_night(0, tiles=2)
    set_fates = fake_cluster(folder)
    set_fates(job1="COMPLETING")
    profile = str(profile_in(folder.path))
    target = str(folder.layout.group(first, "hdf5.json"))
    status, output = finish(start(folder, "run", target, "--profile", profile))
    assert status == 1, output
    # The patience with a job that was cancelled: two minutes, which would be this test's.
    patient = "from dsa110_contimg.operations import slurm; slurm.CANCEL_S = 2.0"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(patient)
    paths = [str(tmp_path / "site"), str(REPO / "src"), PLUGINS]
    target = str(folder.layout.group(second, "hdf5.json"))
    impatient = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    status, output = finish(start(folder, "run", target, "--profile", profile, **impatient))
    assert status == 0, output
    assert (tmp_path / target).exists()
    target = str(folder.layout.group(first, "hdf5.json"))
    status, output = finish(start(folder, "run", target, "--profile", profile, **impatient))
    assert status == 6, output
    assert f"{first}: job 1 does not end on the cluster (completing)" in output


# --- a real cluster -------------------------------------------------------------------------------


@pytest.fixture
def cluster():
    if why := slurm_cluster.why_not():
        pytest.skip(why)
    with slurm_cluster.cluster() as folder:
        yield folder


def forget(cluster):
    slurm_cluster.restart_controller(cluster)


def suspend(cluster):
    slurm_cluster.call("scontrol", "suspend", "1")


def requeue_hold(cluster):
    slurm_cluster.call("scontrol", "update", "JobId=1", "Requeue=1")
    slurm_cluster.call("scontrol", "requeuehold", "1")


@needs_plugin
@pytest.mark.slow
@pytest.mark.parametrize("what", [forget, suspend, requeue_hold])
def test_a_run_on_a_real_cluster_ends_and_the_next_one_makes_it(tile, cluster, what):
    folder, _, target = tile
    profile = str(profile_in(folder.path))
    slow = start(folder, "run", target, "--profile", profile, STUB_SECONDS="60")
    slurm_cluster.wait_for(lambda: slurm_cluster.queue().get("1") == "RUNNING", "start", 60)
    time.sleep(5)  # seen at work
    what(cluster)
    status, output = finish(slow, 170)
    assert status == 1, output
    record = runs.read_runs(folder.path / "results")[-1]
    assert {f["cause"] for f in record["failures"]} == {"transient"}, record["failures"]
    slurm_cluster.restore_node(cluster)
    status, output = finish(start(folder, "run", target, "--profile", profile), 170)
    assert status == 0, output


@needs_plugin
@pytest.mark.slow
def test_a_job_that_is_lost_with_its_node_is_made_when_that_is_back(tile, cluster):
    """The second attempt waits in the queue for its turn, which has no limit of its own."""
    folder, _, target = tile
    profile = str(profile_in(folder.path))
    run = start(folder, "run", target, "--profile", profile, STUB_SECONDS="15")
    slurm_cluster.wait_for(lambda: slurm_cluster.queue().get("1") == "RUNNING", "start", 60)
    slurm_cluster.kill_node()
    slurm_cluster.wait_for(lambda: slurm_cluster.queue().get("2") == "PENDING", "retry", 90)
    slurm_cluster.restore_node(cluster)
    status, output = finish(run, 170)
    assert status == 0, output
    (failure,) = runs.read_runs(folder.path / "results")[-1]["failures"]
    assert (failure["cause"], failure["state"]) == ("transient", "retried")
    assert "its node failed" in failure["message"]
