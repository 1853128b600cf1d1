"""A simulated sky through the real steps: as it arrives, and while everything is killed.

Second tier: each takes some minutes. The reduced forms, with steps that only pretend, are in
``test_live_night.py`` and ``test_kills.py``.
"""

import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsa110_contimg.simulation import season as simulation
from support.night import arrive, assert_same_science, kill_tree

pytestmark = pytest.mark.slow

WAIT_S = 40.0


@dataclass
class Real:
    """A working folder on a simulated night."""

    path: Path
    truth: simulation.Truth

    @classmethod
    def make(cls, path, truth):
        (path / "incoming").mkdir(parents=True)
        return cls(path, truth)

    def start(self, *arguments):
        configuration = ["--configfile", str(self.truth.folder / "config.yaml"), "--config"]
        configuration += ["incoming=incoming", "results=results", f"inventory={{wait_s: {WAIT_S}}}"]
        configuration += ["operations={close_after_s: 0}"]
        return subprocess.Popen(
            [sys.executable, "-m", "dsa110_contimg", *arguments, *configuration],
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments):
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output

    @property
    def results(self):
        return self.path / "results"


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    options = simulation.PRESETS["test"].model_copy(update={"tiles": 3})
    return simulation.simulate(options, tmp_path_factory.mktemp("sky"))


def raw(truth):
    return sorted((truth.folder / "incoming").glob("*.hdf5"))


def test_a_live_night_gives_the_products_of_one_run(truth, tmp_path):
    live, batch = (Real.make(tmp_path / name, truth) for name in ("live", "batch"))
    rng = random.Random(1)
    files = raw(truth)
    absent, truncated, late = files[20], files[37], files[3]

    def deliver():
        for file in sorted(set(files) - {absent, late}):
            time.sleep(rng.uniform(0, 1))
            arrive(file, live.path / "incoming")
            if file == truncated:
                os.truncate(live.path / "incoming" / file.name, 1000)
        arrive(late, live.path / "incoming")

    arrivals = threading.Thread(target=deliver)
    arrivals.start()
    while arrivals.is_alive():
        time.sleep(rng.uniform(0, 5))
        live.call("tick")
    time.sleep(WAIT_S)
    for _ in range(2):
        live.call("tick")
    assert list(live.results.glob("nights/*/closed.json"))
    for file in (live.path / "incoming").iterdir():
        (batch.path / "incoming" / file.name).hardlink_to(file)
    batch.call("run")
    assert_same_science(live.results, batch.results)


def test_kills_spoil_no_product_of_the_real_steps(truth, tmp_path):
    calm, rough = (Real.make(tmp_path / name, truth) for name in ("calm", "rough"))
    for real in (calm, rough):
        for file in raw(truth):
            arrive(file, real.path / "incoming")
    calm.call("tick")
    rng = random.Random(7)
    kills = 0
    for _ in range(60):
        tick = rough.start("tick")
        try:
            tick.communicate(timeout=rng.uniform(1, 20))
            break
        except subprocess.TimeoutExpired:
            kills += 1
            kill_tree(tick)
    assert kills >= 5, "done too soon to tell anything"
    rough.call("tick")
    assert list(rough.results.glob("nights/*/closed.json"))
    assert_same_science(rough.results, calm.results)
    assert not list(rough.results.rglob("failure*.json"))
    assert not list(rough.results.rglob(".tmp-*"))
