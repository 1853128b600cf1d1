"""Row: paths with spaces or `;` break or are executed in shell rules | quoted everywhere, proven by
a results folder named `my data;touch x`.
"""

import os
import shutil
import subprocess
import sys

import pytest

from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.errors import ConfigError
from dsa110_contimg.operations import slurm
from support import REPO
from support.dag_folder import DagFolder
from support.night import Operations, raw_groups

#: What a shell, a pattern or a configuration might make something of.
NASTY = "my data;touch x $(touch y) `touch z` 'a' \"b\" * ? [c] \\ #, é&|<>: 50%"
#: The same for what goes into lists that a colon divides (PATH, PYTHONPATH).
LISTED = NASTY.replace(":", "")


class Nasty(Operations):
    """A working folder with such names all over."""

    @property
    def incoming(self):
        return self.path / f"incoming {NASTY}"

    @property
    def results(self):
        return self.path / NASTY

    @property
    def catalog(self):
        return self.path / f"catalogue {NASTY}.csv"

    def command(self, *arguments, wait_s=0.0):
        values = self.path / f"configuration {NASTY}.yaml"
        lines = {"incoming": self.incoming, "results": self.results, "catalog": self.catalog}
        text = "".join(f"{key}: {_yaml(path)}\n" for key, path in lines.items())
        more = (
            f"inventory: {{wait_s: {wait_s}}}\noperations: {{close_after_s: 0, min_free_gb: 0}}\n"
        )
        values.write_text(text + more)
        program = [sys.executable, "-m", "dsa110_contimg", *arguments]
        return [*program, "--configfile", str(values)]


def _yaml(path):
    return "'" + str(path).replace("'", "''") + "'"


@pytest.fixture
def nasty(tmp_path):
    """A night of two tiles where every name is nasty."""
    made = Nasty(tmp_path / f"folder {LISTED}")
    made.path.mkdir()
    DagFolder(made.path).stub()
    made.incoming.mkdir()
    made.catalog.write_text("name,ra_deg,dec_deg,flux_jy\na,24.4,33.2,1.0\n")
    raw_groups(made.incoming, 2)
    return made


def executed(folder):
    """Return what shells made of names."""
    return [path for name in "xyz" for path in folder.rglob(name)]


def test_commands_take_names_as_they_are(nasty, tmp_path):
    for command in (["run"], ["run"], ["tick"], ["status", "--json"], ["purge"], ["clean"]):
        status, output = nasty.call(*command)
        assert status == 0, output
    assert len(list(nasty.results.rglob("groups/*/*.photometry.csv"))) == 2
    assert (nasty.results / "index.sqlite").is_file()
    steps = [job for kind, job in nasty.ledger() if kind == "begin" and job.startswith("image")]
    assert len(steps) == 2, "the second run had nothing to do"
    assert executed(tmp_path) == []


def test_failures_are_told_and_tried_again(nasty, tmp_path):
    (nasty.path / "fail").write_text("image / no\n")
    nasty.call("tick")
    status, output = nasty.call("status")
    assert status == 0 and "no" in output
    (nasty.path / "fail").write_text("")
    assert nasty.call("retry", "all")[0] == 0
    status, output = nasty.call("run")
    assert status == 0, output
    assert executed(tmp_path) == []


def test_plain_snakemake_and_a_checkout_of_such_a_name(nasty, tmp_path):
    place = tmp_path / f"checkout {LISTED}"
    ignore = shutil.ignore_patterns(".git", "tests", "docs", ".contimg", ".venv", "__pycache__")
    shutil.copytree(REPO, place, ignore=ignore)
    values = nasty.command("run")[-1]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(place / "Snakefile")]
    done = subprocess.run(
        [*command, "--cores", "2", "--quiet", "all", "--configfile", values],
        cwd=tmp_path,
        env=nasty.env | {"PYTHONPATH": str(place / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (nasty.results / "lightcurves/candidates.csv").is_file()
    assert executed(tmp_path) == []


@pytest.mark.parametrize("letter", ["\n", "{", "}", "\t", "\x7f"])
@pytest.mark.parametrize("key", ["incoming", "results", "catalog", "calibrators"])
def test_what_no_name_can_hold_is_refused(key, letter):
    with pytest.raises(ConfigError, match="which no name here may; rename it"):
        load_config({key: f"a{letter}b"})


@pytest.mark.parametrize("letter", ["'", "\\"])
def test_on_a_cluster_some_more_are(letter, tmp_path):
    """Snakemake writes them into the commands of its jobs as Python would, not as a shell would."""
    assert slurm.options(tmp_path / "my data;touch x $(y)")
    with pytest.raises(ConfigError, match="on a cluster"):
        slurm.options(tmp_path / f"a{letter}b")


def test_and_in_one_line(nasty):
    values = nasty.path / "wrong.yaml"
    values.write_text('results: "my\\ndata"\n')
    command = [sys.executable, "-m", "dsa110_contimg", "run", "--configfile", str(values)]
    done = subprocess.run(command, env=nasty.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "'my\\ndata'" in done.stderr


@pytest.mark.slow
def test_the_real_steps_take_names_as_they_are(nasty, tiny_night, tmp_path):
    """From raw files to light curves, with the programs and CASA."""
    for path in nasty.incoming.iterdir():
        path.unlink()
    for path in (tiny_night.folder / "incoming").iterdir():
        os.link(path, nasty.incoming / path.name)
    shutil.copy(tiny_night.folder / "catalog.csv", nasty.catalog)
    (nasty.path / "bin/python").unlink()
    status, output = nasty.call("run")
    assert status == 0, output
    assert (nasty.results / "lightcurves/candidates.csv").is_file()
    for command in (["verify"], ["tick"]):
        status, output = nasty.call(*command)
        assert status == 0, output
    assert executed(tmp_path) == []
