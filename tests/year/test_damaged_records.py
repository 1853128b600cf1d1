"""A zero-length or unknown-key sidecar, inventory, run record (power cut, older or newer release)
ends every plan; wanted: a damaged one is remade or sets its group aside.
"""

import json
import re
import shutil

import pytest

from dsa110_contimg.core.options import Config
from dsa110_contimg.core.runs import read_runs
from dsa110_contimg.operations import closing, planning
from dsa110_contimg.operations.snapshot import render, snapshot
from support.night import science
from support.ticks import NIGHT, Ticks


def truncated(content):
    return content[: len(content) // 2]


def unknown_key(content):
    try:
        known = json.loads(content)
    except ValueError:
        return content
    if "groups" in known and isinstance(known["groups"], list):
        known["groups"] = [group | {"newer": 1} for group in known["groups"]]
    if isinstance(group := known.get("qa", {}).get("group"), dict):
        group["newer"] = {"a": [1]}
    return json.dumps(known | {"newer": [1, {}]}).encode()


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": truncated,
    "unknown key": unknown_key,
    "wrong type": lambda content: b'[{"verdict": 3}, "pass"]',
    "null": lambda content: b"null",
    "binary": lambda content: bytes(range(256)),
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A night whose tiles are made, and which is still open."""
    made = Ticks.with_night(tmp_path_factory.mktemp("night") / "work")
    made.closes = False
    made.tick()
    return made


@pytest.fixture(scope="module")
def done(night, tmp_path_factory):
    """The same when it is closed."""
    made = night.copy(tmp_path_factory.mktemp("done") / "work")
    made.closes = True
    made.tick()
    assert made.closed == [NIGHT]
    return made


def records(folder):
    """Every record, sidecar and cache.

    Not the sidecars that only stubs write, nor configurations of former runs, which none needs.
    """
    other = re.compile(r"(jpg|\.(pb|pbcor|residual|model|psf|rms|weight|view)\.fits)\.json|/config")
    paths = sorted(path for path in folder.rglob("*.json*") if path.is_file())
    return [path for path in paths if not other.search(str(path.relative_to(folder.parent)))]


def spoil(path, damage):
    path.write_bytes(damage(path.read_bytes()))


def look(folder, monkeypatch):
    """Do what tick, status and the index read, in this process; return the plan."""
    monkeypatch.chdir(folder.path)
    config = Config.model_validate(
        {
            "incoming": "incoming",
            "catalog": "demo/catalog.csv",
            "inventory": {"wait_s": 0},
            "operations": {"close_after_s": 0 if folder.closes else 1e9},
        }
    )
    plan = planning.make_plan(config)
    assert render(snapshot(config, plan))
    read_runs(config.results)
    for name in closing.nights_on_disk(folder.layout):
        closing.purged_groups(folder.layout, name)
    return plan


@damages
@pytest.mark.parametrize("state", ["night", "done"])
def test_no_plan_and_no_status_is_ended_by_any_record(
    state, damage, request, tmp_path, monkeypatch
):
    folder = request.getfixturevalue(state).copy(tmp_path / "work")
    found = records(folder.results)
    assert len(found) > 20
    before = look(folder, monkeypatch)
    for path in found:
        content = path.read_bytes()
        spoil(path, damage)
        plan = look(folder, monkeypatch)
        if path.name != "closed.json":
            assert set(before.groups) <= {*plan.groups, *plan.settled}, path
        path.write_bytes(content)
        look(folder, monkeypatch)
    for path in records(folder.results):
        spoil(path, damage)
    look(folder, monkeypatch)


@pytest.mark.parametrize(
    "damage",
    [
        DAMAGES["empty"],
        *(pytest.param(d, marks=pytest.mark.slow) for d in list(DAMAGES.values())[1:]),
    ],
    ids=list(DAMAGES),
)
def test_all_records_of_an_open_night_are_made_again(night, done, damage, tmp_path):
    """What is derived is as if nothing had happened; what was damaged is named."""
    folder = night.copy(tmp_path / "work")
    for path in records(folder.results):
        spoil(path, damage)
    folder.closes = True
    said = folder.tick()
    assert folder.closed == [NIGHT]
    made, wanted = science(folder.products()), science(done.products())
    if damage is unknown_key:  # these records stay
        made, wanted = ({k: v for k, v in m.items() if ".json" not in k} for m in (made, wanted))
    assert made == wanted
    named = [line for line in said.splitlines() if line.startswith("damaged: ")]
    if damage is unknown_key:
        assert named == []
    else:
        (group, *_) = folder.groups()
        assert any(f"{group}.ms.json" in line and "set aside" in line for line in named), said
    assert folder.status()["illegible"] == [] and folder.status()["failures"] == []
    assert not list(folder.results.rglob("*.damaged")), "the night is closed: all have successors"


def test_a_closed_night_whose_record_is_damaged_closes_again(done, tmp_path):
    """Also where the raw files are gone, and so nothing could be made again."""
    folder = done.copy(tmp_path / "work")
    for path in folder.incoming.iterdir():
        path.unlink()
    record = folder.layout.night(NIGHT, "closed.json")
    groups = json.loads(record.read_text())["groups"].keys()
    record.write_bytes(b"")
    said = folder.tick()
    assert f"damaged: {record.relative_to(folder.path)}: empty" in said
    assert folder.closed == [NIGHT]
    assert json.loads(record.read_text())["groups"].keys() == groups
    assert folder.products().keys() == done.products().keys()


def test_what_was_purged_is_known_without_its_record(done, tmp_path, monkeypatch):
    folder = done.copy(tmp_path / "work")
    first = folder.groups()[0]
    for kind in ("hdf5", "ms"):
        path = folder.layout.group(first, kind)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    record = folder.layout.night(NIGHT, "purged.json")
    record.write_text('{"rules": {}, "groups": {"' + first)
    folder.layout.night(NIGHT, "closed.json").unlink()
    assert look(folder, monkeypatch).settled == {first}
    before = len(folder.ledger())
    assert "damaged: " in folder.tick()
    assert folder.closed == [NIGHT]
    assert not folder.layout.group(first, "ms").exists(), "it is not made again"
    assert [job for job in folder.steps(before) if job in ("group", "convert", "image")] == []
    assert json.loads(record.read_text())["groups"].keys() == {first}


def test_a_group_that_cannot_be_made_again_is_named(night, tmp_path):
    """Its sidecar is damaged, its raw files are gone; one of the two is a tile and stays one."""
    folder = night.copy(tmp_path / "work")
    first, second = folder.groups()
    for path in folder.incoming.iterdir():
        path.unlink()
    for group in (first, second):
        folder.layout.group(group, "hdf5.json").write_bytes(b"")
    folder.layout.group(second, "photometry.csv").unlink()
    folder.closes = True
    folder.tick()
    (lost,) = [f for f in folder.status()["failures"] if f["what"] == second]
    assert "raw files are gone" in lost["message"] and lost["state"] == "quarantined"
    assert f"set aside group {second}" in folder.alerts()
    assert folder.closed == [NIGHT]
    mosaic = json.loads(folder.layout.night(NIGHT, "mosaic.fits.json").read_text())
    assert [first in tile["path"] for tile in mosaic["inputs"]] == [True]
