"""Wrong input ends in one clear line, a non-zero exit, and nothing half-made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import REPO


@pytest.fixture
def folder(tmp_path):
    """A working folder in which the shipped configuration is valid, without data."""
    (tmp_path / "demo/incoming").mkdir(parents=True)
    (tmp_path / "demo/catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\na,24.4,33.2,1.0\n")
    return tmp_path


def contimg(folder, *arguments, **environment):
    command = [sys.executable, "-m", "dsa110_contimg", *arguments]
    return _run(command, folder, environment)


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), "--cores", "1"]
    return _run([*command, *arguments], folder, {})


def _run(command, folder, environment):
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


CASES = [
    (["incoming=nowhere"], "incoming: there is no folder nowhere"),
    (["catalog=nowhere.csv"], "catalog: there is no file nowhere.csv"),
    (["incomming=demo"], "incomming: no such key; did you mean 'incoming'?"),
    (["imaging={preset: fast}"], "imaging.preset: input should be 'quick', 'standard'"),
    (["imaging={size_px: big}"], "imaging.size_px: input should be a valid integer"),
    (["imaging={wsclan: {}}"], "imaging.wsclan: no such key; did you mean 'wsclean'?"),
]


@pytest.mark.parametrize(("config", "message"), CASES)
def test_launcher_names_what_is_wrong(folder, config, message):
    done = contimg(folder, "run", "--config", *config)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert not (folder / "results").exists()


@pytest.mark.parametrize(("config", "message"), [CASES[0], CASES[2], CASES[4]])
def test_plain_snakemake_names_what_is_wrong(folder, config, message):
    done = snakemake(folder, "--config", *config)
    assert done.returncode != 0
    told = ("Using workflow specific profile", "Config file ")
    (line,) = (text for text in done.stderr.splitlines() if text and not text.startswith(told))
    assert message in line
    assert not (folder / "results").exists()


def test_absent_configuration_file(folder):
    done = contimg(folder, "run", "--configfile", "mine.yaml")
    assert done.returncode == 2
    assert done.stderr.strip() == "contimg run: --configfile: there is no file mine.yaml"


def test_broken_configuration_file(folder):
    (folder / "mine.yaml").write_text("imaging: [\n")
    done = contimg(folder, "run", "--configfile", "mine.yaml")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "mine.yaml: not valid YAML" in line


def test_broken_value_on_the_command_line(folder):
    done = contimg(folder, "run", "--config", "imaging={preset")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "--config: 'imaging={preset': not valid YAML" in line


def test_absent_imager_is_told_before_anything_starts(folder):
    """A PATH that holds nothing but this Python: neither WSClean nor AOFlagger."""
    done = contimg(folder, "run", PATH=str(Path(sys.executable).parent))
    assert done.returncode == 4
    (line,) = done.stderr.strip().splitlines()
    assert "wsclean is not installed; install it with 'apt-get install wsclean'" in line
    assert not (folder / "results").exists()


def test_an_empty_incoming_folder_is_no_error(folder):
    done = contimg(folder, "run")
    assert done.returncode == 0, done.stderr
    assert "0 groups" in done.stdout


def test_check_says_what_is_missing(folder):
    done = contimg(folder, "check", "--config", "incoming=nowhere")
    assert done.returncode == 1
    assert "MISSING  configuration: incoming: there is no folder nowhere" in done.stdout
    assert "ok       casatasks: " in done.stdout
