"""Row: defaults that change with a release, and tool versions, remake nothing and mix silently |
resolved options and versions are part of provenance, and of the decision where they change numbers;
`contimg outdated` lists what an upgrade would change, nothing is remade behind one's back.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from dsa110_contimg import cli
from dsa110_contimg.core import tools
from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.figures import PhotometryFigures
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.provenance import calling
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.operations import outdated
from support import REPO
from support.dag_folder import DagFolder
from support.figures import example
from support.steps import load


@pytest.fixture
def checkout(tmp_path):
    """A release whose defaults can be changed."""
    copy = tmp_path / "release"
    copy.mkdir()
    for name in ("src", "workflow", "config", "profiles"):
        shutil.copytree(REPO / name, copy / name)
    shutil.copy(REPO / "Snakefile", copy)
    return copy


@pytest.fixture
def folder(tmp_path):
    """A night, an imager that tells its version, and steps that only pretend."""
    made = DagFolder.make(tmp_path)
    made.nights = [made.add_night(0, tiles=2)]
    imager(made, "3.4.0")
    return made


def imager(folder, version):
    program = folder.stub() / "wsclean"
    program.write_text(f"#!/bin/sh\necho 'WSClean version {version} (2030-01-01)'\n")
    program.chmod(0o755)


def jobs(folder, checkout, *options):
    """Run the workflow of a checkout; return the rules of its jobs."""
    env = dict(os.environ, PYTHONPATH=str(checkout / "src"), CONTIMG_REPO=str(checkout))
    env["PATH"] = os.pathsep.join([str(folder.stub()), env["PATH"]])
    env["CONTIMG_INVENTORY"] = str(folder.freeze())
    command = [sys.executable, "-m", "snakemake", "-s", str(checkout / "Snakefile"), *options]
    done = subprocess.run(
        [*command, "--cores", "2", "--workflow-profile", str(checkout / "profiles/default")],
        cwd=folder.path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return set(re.findall(r"^(?:local)?rule (\w+):", output, re.M)) - {"all"}


def test_a_default_or_a_tool_that_changes_remakes_what_rests_on_it(folder, checkout):
    assert "image" in jobs(folder, checkout)
    assert jobs(folder, checkout) == set()
    source = checkout / "src/dsa110_contimg/core/options.py"
    text = source.read_text()
    name = "upper_limit_sigma: Positive"
    assert f"{name} = 5.0" in text
    source.write_text(text.replace(f"{name} = 5.0", f"{name} = 6.0"))
    remade = jobs(folder, checkout, "--dry-run")
    assert "tile_photometry" in remade and not remade & {"group", "convert", "image"}
    source.write_text(text)
    imager(folder, "3.5.0")
    remade = jobs(folder, checkout, "--dry-run")
    assert "image" in remade and not remade & {"group", "convert", "calibrate"}


# --- what is said of it ---------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """Two nights of measurements as the present release makes them, the first closed."""
    layout = Layout(tmp_path / "results")
    config = load_config({})
    for night in ("2026-02-03", "2026-02-04"):
        made = outdated.now(config)["photometry"]
        layout.night(night).mkdir(parents=True)
        with calling(["photometry", "x"], made.options):
            card = Sidecar("photometry", figures=example(PhotometryFigures))
            card.write(layout.night(night, "photometry.csv"))
    closed = {"night": "2026-02-03", "closed_utc": "2026-02-05T00:00:00Z", "groups": {}}
    (layout.night("2026-02-03") / "closed.json").write_text(json.dumps(closed))
    return layout.results


def listed(results, capsys, *options):
    """Return what the command lists."""
    config = [f"results={results}", *options]
    assert cli.main(["outdated", "--json", "--config", *config]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_an_upgrade_would_change_is_listed_by_night_and_step(results, capsys):
    assert listed(results, capsys) == []
    first, second = listed(results, capsys, "photometry={upper_limit_sigma: 6}")
    assert (first["night"], first["step"], first["n_products"]) == ("2026-02-03", "photometry", 1)
    assert first["closed"] and first["command"] == "contimg run 2026-02-03"
    assert list(first["reasons"]) == ["upper_limit_sigma 5.0 -> 6.0"]
    assert not second["closed"]


def test_versions_code_and_older_releases_are_reasons(results, capsys):
    card = results / "nights/2026-02-04/photometry.csv.json"
    content = json.loads(card.read_text())
    content["tools"]["scipy"] = "0.1"
    content["provenance"]["code"] = "another"
    card.write_text(json.dumps(content))
    (entry,) = listed(results, capsys)
    version = tools.versions("photometry")["scipy"]
    assert set(entry["reasons"]) == {"code", f"scipy 0.1 -> {version}"}
    del content["provenance"]
    card.write_text(json.dumps(content | {"schema": 2}))
    (entry,) = listed(results, capsys)
    assert "recorded no code" in next(iter(entry["reasons"]))


def test_what_is_made_again_is_said_once_for_each_change(results):
    config = load_config({"results": str(results)})
    nights = ["2026-02-04"]
    assert outdated.news(config, nights) == ""
    changed = load_config({"results": str(results), "photometry": {"upper_limit_sigma": 6}})
    said = outdated.news(changed, nights)
    assert said.startswith("1 products of 1 night") and "upper_limit_sigma 5.0 -> 6.0" in said
    assert outdated.news(changed, nights) == ""


def test_the_sections_of_a_step_are_those_of_its_script():
    """What a rule hands over, a parser takes and a comparison looks at is the same."""
    config = load_config({})
    for path in sorted((REPO / "workflow/scripts").glob("*.py")):
        models = load(path.stem).argparser().get_default("sections") or ()
        sections = outdated.SECTIONS[path.stem]
        assert [type(getattr(config, name)) for name in sections] == list(models), path.stem


def test_a_program_is_asked_once_and_again_when_it_changes(tmp_path, monkeypatch):
    program = tmp_path / "wsclean"
    program.write_text("#!/bin/sh\necho asked >> \"$0.log\"\necho 'WSClean version 3.4.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CONTIMG_PROGRAM_VERSIONS", raising=False)
    assert {tools.program_version("wsclean") for _ in range(3)} == {"3.4.1"}
    assert (tmp_path / "wsclean.log").read_text().count("asked") == 1
    program.write_text("#!/bin/sh\necho 'WSClean version 3.5'\n")
    assert tools.program_version("wsclean") == "3.5"
