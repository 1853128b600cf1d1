"""A product of a closed night is missing: every tick exits 1 with Snakemake's message, 0 failures,
no alert; wanted: remade or named; engine errors are failures with a cause, alerts, their own exit
status.
"""

import json
import os
import shutil

import pytest

from dsa110_contimg.operations import closing
from support.night import science
from support.ticks import NIGHT, Ticks

SECOND = "2026-02-11"


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """Two nights that are closed."""
    made = Ticks.with_night(tmp_path_factory.mktemp("closed") / "work", days=(0, 1))
    made.tick()
    assert made.closed == [NIGHT, SECOND]
    return made


@pytest.mark.parametrize(
    "lost",
    [
        ("qa.json",),
        pytest.param(("photometry.csv",), marks=pytest.mark.slow),
        pytest.param(("photometry.csv.json", "mosaic.fits"), marks=pytest.mark.slow),
        pytest.param(
            (
                *(f"mosaic.fits{end}" for end in ("", ".json")),
                *(f"photometry.csv{end}" for end in ("", ".json")),
                "qa.json",
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda lost: lost[0] if len(lost) < 3 else "all",
)
def test_a_missing_product_of_a_closed_night_is_made_again(closed, lost, tmp_path):
    folder = closed.copy(tmp_path / "work")
    for name in lost:
        folder.layout.night(NIGHT, name).unlink()
    folder.tick()
    assert folder.closed == [NIGHT, SECOND]
    assert science(folder.products()) == science(closed.products())
    assert folder.tick() == ""


def test_what_cannot_be_made_again_is_named_and_the_others_go_on(closed, tmp_path):
    """The night's measurements are lost, its tiles and its raw files too."""
    folder = closed.copy(tmp_path / "work")
    folder.layout.night(NIGHT, "photometry.csv").unlink()
    shutil.rmtree(folder.layout.night(NIGHT, "groups"))
    for path in folder.incoming.glob("2026-02-10*"):
        path.unlink()
    for path in folder.results.glob("lightcurves/*.parquet"):
        path.unlink()
    folder.tick()
    (failure,) = folder.status()["failures"]
    assert failure["what"] == NIGHT and failure["state"] == "quarantined"
    assert "photometry.csv missing" in failure["message"]
    assert f"set aside night {NIGHT}" in folder.alerts()
    assert folder.layout.lightcurves("lightcurves.parquet").exists(), "of the other night"
    assert folder.tick() == "", "nothing is tried for ever"
    # Put back from a copy, it is as if nothing had been.
    shutil.copy2(closed.layout.night(NIGHT, "photometry.csv"), folder.layout.night(NIGHT))
    assert folder.status()["failures"] == []


def test_a_failure_of_snakemake_itself_is_a_failure(tmp_path):
    """It is told in a line, by an alert and the exit status, and over when a run gets through."""
    folder = Ticks.with_night(tmp_path / "work", tiles=1)
    plugin = folder.path / "sitecustomize.py"
    plugin.write_text(
        "import sys\n"
        "if 'snakemake' in ' '.join(sys.orig_argv):\n"
        "    import snakemake.api, snakemake.dag\n"
        "    from snakemake.exceptions import WorkflowError\n"
        "    async def init(self, *args, **kwargs):\n"
        "        raise WorkflowError('two rules want to make one file:\\nnights/x')\n"
        "    snakemake.dag.DAG.init = init\n"
    )
    modules = os.pathsep.join([str(folder.path), os.environ["PYTHONPATH"]])
    status, output = folder.call("tick", PYTHONPATH=modules)
    assert status == 7, output
    (failure,) = folder.failures().values()
    assert (failure.rule, failure.cause, failure.state) == ("workflow", "bug", "waiting")
    assert "two rules want to make one file: nights/x" in failure.message
    assert "two rules" in (folder.path / failure.log).read_text()
    assert failure.message in output
    (told,) = folder.status()["failures"]
    assert told["message"] == failure.message and told["what"] == NIGHT
    assert f"workflow {NIGHT}" in folder.alerts()
    (run,) = folder.results.glob("runs/*.json")
    assert json.loads(run.read_text())["exit_status"] == 7
    assert folder.call("tick", PYTHONPATH=modules)[0] == 7
    assert folder.failures()["workflow"].attempts == 2
    plugin.unlink()
    folder.tick()
    assert folder.failures() == {} and folder.closed == [NIGHT]
    assert not [name for name in folder.alerts() if name.startswith("workflow")]
    assert closing.open_nights(folder.layout) == []
