"""A quarantined cosmetic step (a plot whose source name is not valid mathtext) keeps all nights
from closing; wanted: decoration never holds back science.
"""

import re

import pytest

from dsa110_contimg.operations import failures
from support import REPO
from support.night import science
from support.ticks import NIGHT, Ticks, told

STEPS = {
    "tile_report": "T001436",
    "calibration_report": "T000926",
    "mosaic_view": "mosaic.view.fits",
    "night_report": "report.html",
    "candidate_plots": "candidates",
    "index": "index.sqlite",
}


def test_decoration_is_of_the_workflow():
    rules = "".join(path.read_text() for path in (REPO / "workflow/rules").glob("*.smk"))
    known = set(re.findall(r"^(?:use )?rule \w+ as (\w+)|^rule (\w+)", rules, re.M))
    names = {name for pair in known for name in pair}
    assert names >= failures.DECORATION | failures.EXTRAS and set(STEPS) == failures.DECORATION


@pytest.fixture(scope="module")
def arrived(tmp_path_factory):
    """A night of which nothing is made yet."""
    return Ticks.with_night(tmp_path_factory.mktemp("arrived") / "work")


@pytest.fixture(scope="module")
def undisturbed(arrived, tmp_path_factory):
    made = arrived.copy(tmp_path_factory.mktemp("undisturbed") / "work")
    made.tick()
    return made


def products(folder):
    """Return the products that science is."""
    shown = re.compile(r"\.(html|jpg|view\.fits|sqlite)(\.json)?$|failure|candidates(/|\.json)")
    return {k: v for k, v in science(folder.products()).items() if not shown.search(k)}


def test_nights_close_without_what_cannot_be_shown(arrived, undisturbed, tmp_path):
    """All of it fails at once; it is tried as often as it deserves, told, and left out."""
    folder = arrived.copy(tmp_path / "work")
    folder.fail(
        *(f"{step} {text} {told('bug', 'ParseFatalException')}" for step, text in STEPS.items())
    )
    output = folder.tick(expected=1)
    assert folder.closed == [NIGHT]
    assert products(folder) == products(undisturbed)
    found = folder.failures()
    assert {"tile_report", "mosaic_view", "index", "candidate_plots"} <= found.keys()
    assert all(f.quarantined and f.attempts == 3 for f in found.values()), found
    assert "tile_report 20260210T001436: ParseFatalException (bug; attempt 3, set aside)" in output
    assert {f["rule"] for f in folder.status()["failures"]} == found.keys()
    assert "set aside index index" in folder.alerts()
    done = len(folder.ledger())
    assert folder.tick() == "" and len(folder.ledger()) == done, "nothing is tried for ever"
    # The cause is gone; a person says so.
    folder.fail()
    status, output = folder.call("retry", NIGHT, "index", "candidate_plots")
    assert status == 0 and f"{NIGHT} is open again" in output
    folder.tick()
    assert folder.failures() == {} and folder.closed == [NIGHT]
    assert science(folder.products()) == science(undisturbed.products())


@pytest.mark.slow
def test_without_light_curves_nights_get_what_is_their_own(arrived, undisturbed, tmp_path):
    """They stay open, and are closed when the light curves can be made."""
    folder = arrived.copy(tmp_path / "work")
    folder.fail(f"lightcurves lightcurves {told('data')}")
    folder.tick(expected=1)
    mosaic = folder.layout.night(NIGHT, "qa.json")
    assert mosaic.exists() and folder.closed == []
    assert folder.tick() == ""
    assert "set aside lightcurves lightcurves" in folder.alerts()
    folder.fail()
    assert folder.call("retry", "lightcurves")[0] == 0
    folder.tick()
    assert folder.closed == [NIGHT] and folder.failures() == {}
    assert science(folder.products()) == science(undisturbed.products())
