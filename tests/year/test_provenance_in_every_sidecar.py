"""Row: sidecars carry `0.1.0` and often no commit (git refuses foreign folders) | version, code
hash, commit, resolved configuration, run id in every sidecar.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys

import pytest

from dsa110_contimg import __version__
from dsa110_contimg.core import code, places
from dsa110_contimg.core.config import add_options
from dsa110_contimg.core.tools import PACKAGES
from support import REPO
from support.chain import run_chain
from support.night import Operations, raw_groups
from support.steps import load

#: What git takes for the folder of someone else.
FOREIGN = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def head():
    command = ["git", "-C", str(REPO), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def complete(content, step):
    """Check what a sidecar says of the making of its product; return it."""
    made = content["provenance"]
    assert made["release"] == __version__ == content["tools"]["dsa110-contimg"]
    assert made["code"] == code.step_hash(step)
    assert made["commit"].removesuffix("-dirty") == head()
    assert made["argv"][0] == step
    parser = load(step).argparser()
    for model in parser.get_default("sections") or ():
        assert set(model.model_fields) <= set(content["parameters"]), step
    present = {name for name in PACKAGES.get(step, ()) if name != "casadata"}
    assert present <= set(content["tools"]), step
    return made


def configuration(results, made):
    """Return the configuration that a sidecar names, which tells its own checksum."""
    text = (results / "configurations" / f"{made['configuration']}.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == made["configuration"]
    return json.loads(text)


@pytest.fixture
def night(tmp_path):
    """A group whose first step is the real one."""
    made = Operations.make(tmp_path)
    raw_groups(made.incoming, 1)
    program = made.path / "bin/python"
    first, *lines = program.read_text().splitlines()
    real = f'case "$*" in */group.py\\ *) exec {shlex.quote(sys.executable)} "$@";; esac'
    program.write_text("\n".join([first, real, *lines]) + "\n")
    return made


def test_a_job_of_a_run_tells_run_and_configuration_where_git_refuses(night):
    status, output = night.call("run", **FOREIGN)
    assert status == 0, output
    (card,) = night.results.rglob("group_*.hdf5.json")
    made = complete(json.loads(card.read_text()), "group")
    (run,) = (night.results / "runs").glob("*.json")
    assert made["run"] == run.stem
    kept = configuration(night.results, made)
    assert kept["photometry"]["min_flux_jy"] == 0.01, "defaults are resolved"
    assert kept["operations"]["min_free_gb"] == 0.1, "what was given is in it"
    assert "alerts" not in kept, "no secrets"


@pytest.mark.parametrize("git", ["refuses", "is not installed"])
def test_a_step_by_hand_finds_out_what_it_can(tmp_path, git):
    (files,) = raw_groups(tmp_path / "incoming", 1)
    out = tmp_path / "group_x.hdf5"
    env = dict(os.environ, PYTHONPATH=str(REPO / "src")) | (FOREIGN if git == "refuses" else {})
    if git == "is not installed":
        env["PATH"] = str(tmp_path)
    script = str(places.script("group"))
    subprocess.run([sys.executable, script, out, *files], env=env, check=True)
    made = complete(json.loads(out.with_name(f"{out.name}.json").read_text()), "group")
    assert made["run"] is None and made["configuration"] is None
    assert made["argv"] == ["group", str(out), *map(str, files)]


def test_options_that_were_not_given_are_told_with_their_defaults():
    """Of every step: its parser knows which options it has, and the end of a step tells them."""
    from dsa110_contimg.core.config import resolved

    for path in sorted((REPO / "workflow/scripts").glob("*.py")):
        parser = load(path.stem).argparser()
        sections = parser.get_default("sections") or ()
        text = path.read_text()
        assert len(sections) == text.count("add_options(parser"), path
        fresh = load("image").steps.parser("x", "")
        for model in sections:
            add_options(fresh, model)
        found = resolved(fresh.parse_args([]))
        assert set(found) == {name for model in sections for name in model.model_fields}


@pytest.mark.slow
def test_every_sidecar_of_a_real_chain(tiny_night, tmp_path):
    layout = run_chain(tiny_night, tmp_path)
    cards = [p for p in layout.results.rglob("*.json") if "provenance" in json.loads(p.read_text())]
    steps = set()
    for card in cards:
        content = json.loads(card.read_text())
        made = complete(content, content["step"])
        assert made["run"] and configuration(layout.results, made)
        steps.add(content["step"])
    scripts = {path.stem for path in (REPO / "workflow/scripts").glob("*.py")}
    assert steps == scripts - {"joint"}
