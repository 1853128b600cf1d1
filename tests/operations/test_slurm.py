"""The workflow on a real SLURM cluster of one node, which the tests start and stop.

Steps are the stubs of the workflow's tests but for the second tier, which images a simulated night.
"""

import filecmp
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dsa110_contimg.core import runs
from dsa110_contimg.core.errors import MachineError
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.simulation import season as simulation
from support import REPO, slurm_cluster
from support.dag_folder import DagFolder
from support.night import assert_same_science

#: Folder with the plugin of Snakemake, which the launcher keeps out of the environment.
PLUGINS = os.environ.get("CONTIMG_PLUGINS_SLURM", "")


@pytest.fixture
def cluster():
    if why := slurm_cluster.why_not():
        pytest.skip(why)
    if not PLUGINS and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("Snakemake's plugin for SLURM is absent; './contimg test' installs it")
    with slurm_cluster.cluster() as folder:
        yield folder


def profile_in(folder, **limits):
    """Write the shipped profile, scaled down to this machine and to the patience of a test."""
    profile = yaml.safe_load((REPO / "profiles/slurm/profile.yaml").read_text())
    del profile["set-threads"]  # the number of threads is an argument of a step
    profile["cores"] = os.cpu_count()
    profile["latency-wait"] = 5
    profile["slurm-init-seconds-before-status-checks"] = 3
    for rule in profile["set-resources"]:
        profile["set-resources"][rule]["mem_mb"] = "1500 * attempt"
    for rule in TILE:  # a group of jobs asks for as much as the greediest of them
        profile["set-resources"][rule] |= limits
    path = folder / "profile"
    path.mkdir()
    (path / "profile.yaml").write_text(yaml.safe_dump(profile))
    return path


def environment(folder):
    """Return the environment in which steps are stubs and the plugin is there."""
    programs = (folder.stub(), Path(sys.executable).parent, os.environ["PATH"])
    return {
        **os.environ,
        "PATH": os.pathsep.join(map(str, programs)),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO / "src"), PLUGINS])),
        "CONTIMG_INVENTORY": str(folder.freeze()),
    }


#: Rules that travel to the cluster together, from calibrated data to measurements.
TILE = ("apply", "image", "tile_photometry")
HOG = "import time; block = b'x' * (800 << 20); time.sleep(3)"
SLEEP = "import time; time.sleep(75)"
OPTIONS = ("--config", "flagging={engine: none}", "imaging={engine: tclean}")


def contimg(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "dsa110_contimg", *arguments, *OPTIONS],
        cwd=folder.path,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def make_greedy(folder, step, code):
    """Let a step run some code before it does its work."""
    program = folder.stub() / "python"
    shell, stub = program.read_text().splitlines()
    first = f'{sys.executable} -c "{code}" || exit'
    lines = (shell, f'case "$*" in *"/{step}.py "*) {first};; esac', stub)
    program.write_text("\n".join(lines) + "\n")


def finish(process):
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def products(folder):
    """Return the paths of all products, relative to the results folder."""
    results = folder.path / "results"
    found = [*results.glob("nights/**/*"), *results.glob("lightcurves/*")]
    return {str(p.relative_to(results)) for p in found if p.is_file() and p.name[0] != "."}


def assert_same_products(one, other):
    names = products(one)
    assert names == products(other)
    assert len(names) > 20
    for name in names:
        assert filecmp.cmp(one.path / "results" / name, other.path / "results" / name, False), name


def test_a_tile_on_the_cluster_after_a_killed_run(cluster, tmp_path):
    """Jobs of a killed run are cancelled; a job that wants more memory than it has gets more."""
    (tmp_path / "here").mkdir()
    here = DagFolder.make(tmp_path / "here")
    calibrator, target = here.add_night(0, tiles=2)
    ready = [here.layout.group(calibrator, "gcal.json"), here.layout.group(target, "ms.json")]
    status, output = finish(contimg(here, "run", *map(str, ready)))
    assert status == 0, output
    there = here.copy(tmp_path / "there")
    status, output = finish(contimg(here, "run", target))
    assert status == 0, output

    profile = profile_in(there.path, mem_mb="600 * attempt")
    run = ("run", target, "--profile", str(profile))
    slurm_cluster.drain(True)
    killed = contimg(there, *run)
    slurm_cluster.wait_for(slurm_cluster.queue, "submission", 60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert slurm_cluster.queue() == {"1": "PENDING"}

    make_greedy(there, "image", HOG)
    second = contimg(there, *run)
    slurm_cluster.wait_for(lambda: slurm_cluster.queue()["1"] == "CANCELLED", "cancelling", 60)
    slurm_cluster.drain(False)
    status, output = finish(second)
    assert status == 0, output
    assert_same_products(here, there)

    assert set(slurm_cluster.queue()) == {"1", "2", "3"}  # a chain of three rules, twice
    record = runs.read_runs(there.path / "results")[-1]
    assert (record["exit_status"], record["jobs_failed"]) == (0, 1)
    (failure,) = record["failures"]
    assert (failure["rule"], failure["what"], failure["cause"]) == ("image", target, "compute")
    assert (failure["state"], failure["attempts"]) == ("retried", 1)
    assert "it exceeded its memory of 600MB" in failure["message"]


@pytest.mark.slow
def test_a_job_over_its_time_is_repeated_with_more(cluster, tmp_path):
    folder = DagFolder.make(tmp_path)
    calibrator, _ = folder.add_night(0, tiles=2)
    solution = str(folder.layout.group(calibrator, "gcal.json"))
    profile = profile_in(tmp_path)
    content = yaml.safe_load((profile / "profile.yaml").read_text())
    content["set-resources"]["calibrate"]["runtime"] = "attempt"
    (profile / "profile.yaml").write_text(yaml.safe_dump(content))
    make_greedy(folder, "calibrate", SLEEP)
    status, output = finish(contimg(folder, "run", solution, "--profile", str(profile)))
    assert status == 0, output
    (record,) = runs.read_runs(tmp_path / "results")
    (failure,) = record["failures"]
    assert (failure["rule"], failure["what"], failure["cause"]) == (
        "calibrate",
        calibrator,
        "compute",
    )
    assert (failure["state"], failure["attempts"]) == ("retried", 1)
    assert "it exceeded its time of 00:01:00" in failure["message"]


def real(truth, folder, *arguments):
    """Run the workflow with its real steps on a simulated night; return the layout of results."""
    folder.mkdir()
    paths = [str(REPO / "src"), PLUGINS]
    configuration = ("--configfile", str(truth.folder / "config.yaml"))
    command = [sys.executable, "-m", "dsa110_contimg", *arguments, *configuration]
    done = subprocess.run(
        [*command, "--config", "results=results"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Layout(folder / "results")


@pytest.mark.slow
def test_a_simulated_night_on_the_cluster_is_that_of_this_machine(cluster, tmp_path):
    """Three tiles from raw files to light curves; a tick makes them and closes the night."""
    options = simulation.PRESETS["test"].model_copy(update={"tiles": 3})
    truth = simulation.simulate(options, tmp_path / "night")
    here = real(truth, tmp_path / "here", "run").results
    profile = profile_in(tmp_path, mem_mb="3000 * attempt")
    there = real(truth, tmp_path / "there", "tick", "--profile", str(profile)).results

    assert list(there.glob("nights/*/closed.json"))
    assert len(list(here.glob("nights/*/groups/*/*.image.fits"))) == 3
    names = {path.name for path in here.glob("lightcurves/*")}
    assert {"lightcurves.parquet", "candidates.csv"} <= names
    assert_same_science(there, here)


@pytest.mark.parametrize("command", ["run", "tick"])
def test_a_cluster_that_is_away_leaves_no_record(tmp_path, command):
    """A tick every two minutes would leave hundreds a day."""
    folder = DagFolder.make(tmp_path)
    folder.add_night(0, tiles=1)
    squeue = folder.stub() / "squeue"
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    squeue.chmod(0o755)
    status, output = finish(contimg(folder, command, "--profile", "slurm"))
    assert status == MachineError.status, output
    assert "SLURM does not answer: squeue: Unable to contact slurm controller" in output
    assert not list(tmp_path.glob("results/runs/*"))
