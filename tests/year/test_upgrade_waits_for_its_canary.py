"""Deliver: canary night before an upgrade is accepted; roll-back. Row: defaults that change with a
release, and tool versions, mix silently.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import Config
from dsa110_contimg.operations import canary, release
from support import REPO
from support.night import Operations, raw_groups
from support.released import NIGHT as OLD_NIGHT
from support.released import unfold

NIGHT = "2026-02-10"
CANARY = "operations={close_after_s: 0, min_free_gb: 0.1, upgrades: canary}"
LINE = "photometry.upper_limit_sigma 5.0 -> 4.0"


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """Return the checkout of a later release, in which a default is another."""
    checkout = tmp_path_factory.mktemp("newer")
    for name in ("src", "workflow", "config", "profiles"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPO / name, checkout / name, ignore=ignore)
    shutil.copy(REPO / "Snakefile", checkout)
    package = checkout / "src/dsa110_contimg"
    (package / "__init__.py").write_text('__version__ = "9.9.9"\n')
    options = package / "core/options.py"
    text = options.read_text()
    assert text.count("upper_limit_sigma: Positive = 5.0") == 1
    options.write_text(
        text.replace("upper_limit_sigma: Positive = 5.0", "upper_limit_sigma: Positive = 4.0")
    )
    return checkout


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """Return a night that the present release made and closed."""
    operations = Operations.make(tmp_path_factory.mktemp("upgrade") / "work")
    raw_groups(operations.incoming, 2)
    status, output = call(operations, "tick", STUB_FLUX="1.0")
    assert status == 0, output
    return operations


@pytest.fixture
def operations(closed, tmp_path):
    subprocess.run(["cp", "-a", closed.path, tmp_path / "work"], check=True)
    return Operations(tmp_path / "work")


def call(operations, *arguments, checkout=REPO, values=(CANARY,), **env):
    """Run a command of a checkout's release; return exit status and output."""
    done = subprocess.run(
        [*operations.command(*arguments), *values],
        cwd=operations.path,
        env={**operations.env, "PYTHONPATH": str(checkout / "src"), **env},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def record(operations):
    return json.loads((operations.results / "release.json").read_text())


def published(operations):
    names = ("release.json", "metrics.prom", "inventory.json")
    kept = ("campaigns/", "configurations/")
    return {
        name: made
        for name, made in operations.products().items()
        if name not in names and not name.startswith(kept)
    }


def test_by_default_a_release_goes_on_and_says_so_once(operations, newer):
    before = published(operations)
    status, output = call(operations, "tick", checkout=newer, values=())
    assert status == 0 and LINE in output and "release 9.9.9" in output, output
    assert output.count("\n") == 1
    assert call(operations, "tick", checkout=newer, values=()) == (0, "")
    assert published(operations) == before
    assert record(operations)["release"]["version"] == "9.9.9"
    (entry,) = record(operations)["history"]
    assert entry["policy"] == "automatic" and LINE in entry["differs"]


def test_ticks_wait_and_say_so(operations, newer):
    before, known = published(operations), record(operations)
    status, output = call(operations, "tick", checkout=newer)
    assert status == 2 and LINE in output and "contimg upgrade --canary" in output, output
    alerts = json.loads((operations.results / ".alerts.json").read_text())["alerts"]
    assert "upgrade --canary" in alerts["trouble"]["message"]
    assert record(operations) == known and published(operations) == before
    # No acceptance without a look.
    status, output = call(operations, "upgrade", "--accept", checkout=newer)
    assert status == 2 and "made no night again yet" in output
    status, output = call(operations, "upgrade", checkout=newer)
    assert status == 0 and LINE in output and "ticks wait" in output


@pytest.mark.slow
def test_ticks_wait_until_a_night_made_again_was_accepted(operations, newer):
    before, known = published(operations), record(operations)
    # The night is made again beside what was published, and compared.
    status, output = call(operations, "upgrade", "--canary", checkout=newer, STUB_FLUX="1.1")
    assert status == 0, output
    (folder,) = (operations.results / "campaigns").glob("canary-*")
    assert folder.name.startswith("canary-9.9.9-")
    assert re.search(r"\nphotometry.csv +2 +1.0500 +0.1000 +0 +0", output), output
    assert published(operations) == before and record(operations) == known
    assert call(operations, "tick", checkout=newer)[0] == 2
    # Accepted: by whom, when, on what grounds.
    status, output = call(operations, "upgrade", "--accept", checkout=newer)
    assert status == 0 and "accepted: release 9.9.9" in output, output
    entry = record(operations)["history"][-1]
    assert (
        entry["policy"] == "accepted" and entry["by"] and entry["utc"] and LINE in entry["differs"]
    )
    assert entry["canary"]["night"] == NIGHT
    assert call(operations, "tick", checkout=newer) == (0, "")
    assert published(operations) == before
    # And back: the older release waits likewise, and was at work here before.
    status, output = call(operations, "tick")
    assert status == 2 and "upper_limit_sigma 4.0 -> 5.0" in output, output
    assert call(operations, "upgrade", "--accept")[0] == 0
    assert call(operations, "tick") == (0, "")
    assert published(operations) == before


def test_runs_by_hand_wait_too(operations, newer):
    status, output = call(operations, "run", NIGHT, checkout=newer)
    assert status == 2 and "upgrade --canary" in output


def test_a_night_that_cannot_be_made_again_is_named_in_a_line(operations, newer):
    for night, why in (("2030-01-01", "is no closed night"), (NIGHT, "raw files are gone")):
        next(operations.incoming.iterdir()).unlink()
        status, output = call(operations, "upgrade", "--canary", night, checkout=newer)
        assert status == 3 and f"{night}: " in output and why in output, output
    status, output = call(operations, "upgrade", "--canary", checkout=newer)
    assert status == 3 and "no closed night has its raw files" in output
    assert not (operations.results / "campaigns").exists()


@pytest.mark.slow
def test_a_canary_that_fails_is_no_ground_for_acceptance(operations, newer):
    (operations.path / "fail").write_text("image image diverged\n")
    status, output = call(operations, "upgrade", "--canary", checkout=newer, STUB_FLUX="1.0")
    assert status != 0 and "could not be made again" in output, output
    status, output = call(operations, "upgrade", "--accept", checkout=newer)
    assert status == 2 and "made no night again yet" in output


@pytest.mark.parametrize("content", ["", '{"release": {"version": 3, "novel": 1}}'])
def test_a_damaged_record_is_written_anew(operations, content):
    """Also one that a later release wrote, with names that are not known."""
    path = operations.results / "release.json"
    path.write_text(content)
    status, output = call(operations, "tick", values=())
    assert status == 0 and output.count("\n") <= 1, output
    assert json.loads(path.read_text())["release"]["steps"]
    assert call(operations, "tick", values=()) == (0, "")


def test_another_version_of_a_program_counts_and_another_file_does_not(
    monkeypatch, operations, tmp_path
):
    config = Config(results=operations.results)
    assert release.admit(config) is None

    def install(text):
        program = tmp_path / "wsclean"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    version = release.present().tools["wsclean"]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    install(f"echo 'WSClean version {version}'")
    assert release.admit(config) is None
    install("echo 'WSClean version 99.5'")
    assert f"wsclean {version} -> 99.5" in release.admit(config)
    assert release.admit(config) is None


def test_what_a_comparison_finds(tmp_path):
    """On real tables and images: ratios, sources lost and gained, values that differ."""
    config = Config(results=unfold("0.2.0", tmp_path / "work").results)
    now = release.Release("9.9.9")
    made = Layout(canary.folder_of(config, now)).night(OLD_NIGHT)
    shutil.copytree(Layout(config.results).night(OLD_NIGHT), made)
    equal = canary.examine(config, now, OLD_NIGHT)
    assert equal.differ == [] and equal.equal > 10
    assert all(row.largest_change == 0 and row.median_ratio == 1 for row in equal.rows)
    table = made / "photometry.csv"
    header, *rows = table.read_text().splitlines()
    flux = header.split(",").index("flux_jy")
    row = rows[0].split(",")
    row[flux] = str(float(row[flux]) * 1.5)
    table.write_text("\n".join([header, ",".join(row), *rows[2:]]) + "\n")
    found = canary.examine(config, now, OLD_NIGHT)
    (changed,) = [row for row in found.rows if row.table == "photometry.csv"]
    assert (changed.lost, changed.gained) == (1, 0)
    assert changed.largest_change == pytest.approx(0.5) and changed.median_ratio == 1
    assert len(found.differ) == 1 and found.differ[0].startswith("photometry.csv: ")
    assert canary.load(config, now) == found
    next(made.glob("groups/*/*.photometry.csv")).unlink()
    with pytest.raises(Exception, match="was not made"):
        canary.examine(config, now, OLD_NIGHT)


def test_defaults_of_all_that_decides_numbers_are_recorded():
    """And of nothing that does not: who runs unattended work may change its limits."""
    recorded = release.present().defaults
    assert {"imaging.uvmin_lambda", "mosaic.pb_limit", "inventory.min_subbands"} <= set(recorded)
    sections = {name.split(".")[0] for name in recorded}
    assert not sections & {"operations", "retention", "archive", "alerts", "release", "results"}
    assert not [name for name in recorded if name.endswith("timeout_s")]
    assert Path(REPO / "workflow/scripts/night_qa.py").is_file()
    assert set(release.present().steps) == set(release.STEPS)
