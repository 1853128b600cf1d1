"""Purged nights cannot be reprocessed though the raw files exist.

Wanted: they can (campaigns).
"""

import hashlib
import json

import pytest

from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import closing, leftovers, retention
from support.night import Operations, raw_groups, science

NIGHT = "2026-02-10"


@pytest.fixture(scope="module")
def purged(tmp_path_factory):
    """Two nights, closed; of the first all that may go is gone."""
    path = tmp_path_factory.mktemp("campaign")
    work = Operations.make(path)
    work.receive(raw_groups(path / "raw0", 1))
    work.receive(raw_groups(path / "raw1", 1, day=1))
    status, output = work.call("tick")
    assert status == 0, output
    layout = Layout(work.results)
    assert closing.closed_nights(layout) == [NIGHT, "2026-02-11"]
    work.made = science(work.products())
    config = load_config({"incoming": work.incoming, "results": work.results} | {
        "retention": {"ms_days": 0, "calibrator_ms_days": 0, "maps_days": 0}
    })  # fmt: skip
    retention.purge(config, retention.plan_purge(config, now=4e9))
    assert not list(work.results.glob("nights/*/groups/*/*.ms"))
    work.before = snapshot(work)
    return work


def snapshot(work):
    """Return a digest and the time of every file that is published."""
    found = {}
    for place in ("nights", "lightcurves", "index.sqlite"):
        for path in (work.results / place, *(work.results / place).rglob("*")):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[path] = digest, path.stat().st_mtime_ns
    return found


@pytest.fixture(scope="module")
def campaign(purged):
    """The first night, once more."""
    status, output = purged.call("run", NIGHT, "--campaign", "again")
    assert status == 0, output
    return Layout(purged.results).campaign("again")


def test_a_purged_night_is_made_anew(purged, campaign):
    """All that was made of it, and what of that was purged; a night of a run is not closed."""
    assert closing.nights_on_disk(campaign) == [NIGHT]
    paths = [path for path in campaign.results.rglob("*") if path.is_file()]
    made = {str(path.relative_to(campaign.results)) for path in paths}
    published = {place for place in purged.made if place.startswith(f"nights/{NIGHT}/")}
    assert len(published) > 30
    assert published <= made
    assert campaign.lightcurves("lightcurves.parquet").exists()
    assert (campaign.results / "index.sqlite").exists()


def test_what_is_published_stays_byte_for_byte(purged, campaign):
    assert snapshot(purged) == purged.before


def test_light_curves_are_of_its_own_nights(purged, campaign):
    """The stub's digest of the tables of one night is not that of two."""
    name = "lightcurves/lightcurves.parquet"
    own = hashlib.sha256((campaign.results / name).read_bytes()).hexdigest()
    assert own != hashlib.sha256((purged.results / name).read_bytes()).hexdigest()


def test_the_results_take_no_campaign_for_their_own(purged, campaign, monkeypatch, tmp_path):
    assert closing.nights_on_disk(Layout(purged.results)) == [NIGHT, "2026-02-11"]
    begun = len(purged.ledger())
    status, output = purged.call("tick")
    assert status == 0, output
    assert len(purged.ledger()) == begun
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # of the test's own
    left = campaign.night(NIGHT) / ".tmp-1-elsewhere-x"
    left.touch()
    config = load_config({"incoming": purged.incoming, "results": purged.results})
    assert leftovers.stale(config, now=4e9) == []
    mine = config.model_copy(update={"results": campaign.results})
    assert leftovers.stale(mine, now=4e9) == [left]
    left.unlink()


def test_commands_look_at_a_campaign_by_its_name(purged, campaign):
    status, output = purged.call("status")
    assert status == 0
    assert "campaigns: again" in output
    assert "0 open nights" in output
    status, output = purged.call("status", "--campaign", "again", "--json")
    state = json.loads(output[output.index("{") :])
    assert state["results"].endswith("results/campaigns/again")
    assert {g["night"]: g["state"] for g in state["group_list"]}[NIGHT] == "measured"
    for command in (("clean",), ("purge",), ("retry", "all")):
        status, output = purged.call(*command, "--campaign", "again")
        assert status == 0, output


def test_options_of_a_campaign_apply_to_it_alone(purged, campaign):
    asked = ("run", NIGHT, "--campaign", "again", "--config", "imaging.niter=7", "--")
    status, output = purged.call(*asked, "--dry-run", "--printshellcmds")
    assert status == 0, output
    assert " --niter 7" in output
    assert snapshot(purged) == purged.before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "--campaign", "other"), "there is no campaign other; there are: again"),
        (("run", "--campaign", "../x"), "'../x' is no name for a folder"),
        (("run", "--campaign", "new"), "--campaign new: it has no nights yet; name those"),
        (("run", "2030-01-01", "--campaign", "new"), "there are no data of this night"),
        (("purge", "--raw", "--campaign", "again"), "raw files are those of the results"),
    ],
)
def test_what_cannot_be_is_one_line(purged, campaign, arguments, message):
    status, output = purged.call(*arguments)
    assert status == 2
    (line,) = output.splitlines()
    assert message in line
