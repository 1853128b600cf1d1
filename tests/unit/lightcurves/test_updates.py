"""An update gives what a run over all nights at once gives, whatever came before."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from dsa110_contimg.lightcurves import assemble, templates
from dsa110_contimg.lightcurves import store as curve_store
from support.nightly_tables import night
from support.steps import run_step

#: Two blocks of the flux scale and two windows of templates, a pause between them.
DAYS = [*range(14), *range(400, 410)]
PRODUCTS = ("variability.csv", "candidates.csv")


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    monkeypatch.setattr(templates, "N_TRIALS", 600)
    monkeypatch.setattr(templates, "LEAST_TRIALS", 600)


def run(out, paths):
    assert run_step("lightcurves", str(out), *map(str, paths)) == 0
    found = {name: (out / name).read_text() for name in PRODUCTS}
    qa = json.loads((out / "lightcurves.parquet.json").read_text())["qa"]
    n_read = qa.pop("n_tables_read")
    return pd.read_parquet(out / "lightcurves.parquet"), found, qa, n_read


def same(one, other):
    pd.testing.assert_frame_equal(one[0], other[0], check_exact=True)
    assert one[1] == other[1]
    assert one[2] == other[2]


@pytest.fixture
def nights(tmp_path):
    return [night(tmp_path, day) for day in DAYS]


@pytest.fixture
def batch(tmp_path, nights):
    return run(tmp_path / "batch", nights)


def test_one_by_one_in_any_order_equals_all_at_once(tmp_path, nights, batch):
    curves, *_, n_read = batch
    assert n_read == len(DAYS) and len(curves) == 14 * 24 + 10 * 24 - 12 * (5 + 3)
    found = pd.read_csv(tmp_path / "batch/candidates.csv")
    assert set(found.source_id) == {"S0003", "S0005"}
    order = np.random.default_rng(1).permutation(len(nights))
    for count in range(1, len(nights) + 1):
        if count in (2, 7, 15) or count > len(nights) - 4:  # updates of one night and of several
            now = run(tmp_path / "steps", [nights[i] for i in order[:count]])
    assert now[3] == 1
    same(now, batch)
    assert run(tmp_path / "steps", nights)[3] == 0


def test_a_replaced_a_removed_and_a_failed_night(tmp_path, nights, batch):
    out = tmp_path / "batch"
    paths = list(nights)
    paths[4] = night(tmp_path, DAYS[4], scale=1.3)
    changed = run(out, paths)
    assert changed[3] == 1 and changed[1] != batch[1]
    same(changed, run(tmp_path / "again", paths))
    night(tmp_path, DAYS[8], failed=True)
    night(tmp_path, DAYS[4])
    fewer = run(out, paths[:20])
    same(fewer, run(tmp_path / "fewer", paths[:20]))
    assert len(fewer[2]["epochs"]) == 20 and fewer[2]["epochs"][8]["rejected"]
    night(tmp_path, DAYS[8])
    same(run(out, paths), batch)


KILLED = """
import os, sys
from dsa110_contimg.lightcurves import assemble
from support.nightly_tables import night
from support.steps import run_step
assemble.add_templates = lambda *_: os.kill(os.getpid(), 9)  # all is computed, nothing written
run_step("lightcurves", *sys.argv[1:])
"""


def test_a_killed_update_leaves_the_old_state(tmp_path, nights, batch):
    out = tmp_path / "steps"
    before = run(out, nights[:12])
    command = [sys.executable, "-c", KILLED, str(out), *map(str, nights)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run(command, check=False, env=env).returncode == -9
    again = run(out, nights[:12])
    assert again[3] == 0
    same(again, before)
    now = run(out, nights)
    assert now[3] == len(nights) - 12
    same(now, batch)


@pytest.mark.parametrize("harm", ["absent", "garbage", "other code"])
def test_a_store_that_is_lost_or_of_no_use_is_made_anew(tmp_path, nights, batch, harm, monkeypatch):
    out = tmp_path / "batch"
    store = out / ".lightcurves.sqlite"
    assert store.exists()
    if harm == "absent":
        store.unlink()
    elif harm == "garbage":
        store.write_bytes(os.urandom(20_000))
    else:
        monkeypatch.setattr(assemble, "source_hash", lambda *_: "changed")
    now = run(out, nights)
    assert now[3] == len(nights)
    same(now, batch)


def test_a_further_night_computes_its_own_part_only(tmp_path, nights, monkeypatch):
    """A night after a finished block is compared with frozen sources: no other night moves."""
    out = tmp_path / "steps"
    before, *_ = run(out, nights[:22])
    solved, written = [], []
    solve, keep = assemble.solve_block, curve_store.Store.keep
    monkeypatch.setattr(
        assemble, "solve_block", lambda t, e, *rest: solved.append(e) or solve(t, e, *rest)
    )
    monkeypatch.setattr(
        curve_store.Store,
        "keep",
        lambda s, kind, *rest: written.append(kind) or keep(s, kind, *rest),
    )
    after, _, _, n_read = run(out, nights[:23])
    assert n_read == 1
    assert solved == [[f"night{d:04d}" for d in DAYS[20:23]]]
    assert written.count("match") == 1  # the window of the first season stays
    old = after[after.epoch != f"night{DAYS[22]:04d}"].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before, check_exact=True)


def test_scales_of_late_epochs_against_truth(tmp_path):
    """Epochs that are compared with frozen sources miss their true scales by their errors."""
    rng = np.random.default_rng(5)
    true = np.exp(rng.normal(0, 0.1, 60))
    paths = [night(tmp_path, day, scale=true[day]) for day in range(60)]
    for day in range(20, 60):  # a tenth of the sources varies from the second block on
        table = pd.read_csv(paths[day])
        table.loc[[3, 8], "flux_jy"] *= [2.0, 0.5]
        table.to_csv(paths[day], index=False)
    _, _, qa, _ = run(tmp_path / "out", paths)
    late = qa["epochs"][20:]
    found = np.array([e["flux_scale"] for e in late])
    error = np.array([e["flux_scale_error"] for e in late]) / found
    pull = (np.log(found / true[20:]) - np.log(found / true[20:]).mean()) / error
    assert 0.7 < pull.std() < 1.3
    early = np.array([e["flux_scale"] for e in qa["epochs"][:20]]) / true[:20]
    assert np.median(found / true[20:]) / np.median(early) == pytest.approx(1, abs=0.005)


def test_a_source_in_two_places_is_refused(tmp_path, capsys):
    paths = [night(tmp_path, 0), night(tmp_path, 1, dec=41.0)]
    assert run_step("lightcurves", str(tmp_path / "out"), *map(str, paths)) == 3
    assert "'S0000' lies in different places" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
