"""Alternating causes retry for ever; two hosts with other tool times void quarantine; wanted:
bounded by total, fingerprints by content.
"""

import datetime as dt
import itertools
import json
import os

import pytest

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import Config
from dsa110_contimg.operations import failures
from support.ticks import NIGHT, Ticks, told

GROUP = {"group": "20260210T001436", "night": NIGHT}
COMMAND = "python /x/workflow/scripts/image.py a b"


def event(tmp_path, cause):
    log = tmp_path / "job.log"
    log.write_text(told(cause) + "\n")
    return {"end": "failed", "rule": "image", "wildcards": GROUP, "log": str(log)}


@pytest.mark.parametrize("causes", [("transient", "compute"), ("compute", "transient", "bug")])
def test_alternating_causes_come_to_an_end(tmp_path, causes):
    layout = Layout(tmp_path / "results")
    for attempt, cause in enumerate(itertools.cycle(causes), 1):
        failure = failures.note(layout, event(tmp_path, cause), "f")
        if failure.quarantined:
            break
        assert attempt < 10, "for ever"
    assert failure.attempts == attempt <= sum(failures.RETRIES[c] for c in causes) + 1
    # Once it was set aside, one more attempt does not begin it all again.
    assert failures.note(layout, event(tmp_path, causes[1]), "f").quarantined
    assert not failures.note(layout, event(tmp_path, causes[1]), "changed").quarantined


def test_what_may_pass_is_tried_hourly_then_daily(tmp_path):
    layout = Layout(tmp_path / "results")
    for _ in range(4):
        failure = failures.note(layout, event(tmp_path, "transient"), "f")
    path = failures.path_of(layout, "image", GROUP)
    last = dt.datetime.fromisoformat(failure.last_utc)

    def tried_after(hours, days_of_attempts):
        first = last - dt.timedelta(days=days_of_attempts)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"first_utc": f"{first}"}))
        now = last + dt.timedelta(hours=hours)
        return not failures.holds(failures.read(path), "f", now)

    assert tried_after(1.1, 0.5) and not tried_after(0.9, 0.5)
    assert tried_after(24.1, 2) and not tried_after(1.1, 2)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\n")
    return Config.model_validate({"catalog": str(tmp_path / "catalog.csv")})


def test_two_hosts_agree(tmp_path, monkeypatch, config):
    """Their tools lie elsewhere and were installed at other times; they see other mounts."""
    seen = []
    for host, age_s in (("one", 0), ("two", 86400)):
        folder = tmp_path / host
        folder.mkdir()
        for name in ("wsclean", "raw.hdf5", "catalog.csv"):
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
        when = (folder / "wsclean").stat().st_mtime - age_s
        os.utime(folder / "wsclean", (when, when))
        os.utime(folder / "catalog.csv", (when, when))
        os.utime(folder / "raw.hdf5", (1e9, 1e9))
        monkeypatch.setenv("PATH", str(folder))
        of_host = config.model_copy(
            update={"results": folder / "r", "incoming": folder, "catalog": folder / "catalog.csv"}
        )
        seen.append(failures.fingerprint(of_host, COMMAND, [str(folder / "raw.hdf5")]))
        last = of_host
    assert seen[0] == seen[1]
    raw = str(folder / "raw.hdf5")
    (folder / "wsclean").write_text("#!/bin/sh\n# another\n")
    newer = failures.fingerprint(last, COMMAND, [raw])
    assert newer != seen[1]
    (folder / "catalog.csv").write_text("mended\n")
    mended = failures.fingerprint(last, COMMAND, [raw])
    assert mended != newer
    (folder / "raw.hdf5").chmod(0o600)
    assert failures.fingerprint(last, COMMAND, [raw]) != mended, "it may lack no permission now"


@pytest.mark.slow
def test_ticks_end_though_causes_alternate(tmp_path):
    folder = Ticks.with_night(tmp_path / "work")
    _, second = sorted(g["id"] for g in folder.status()["group_list"])
    for cause in ("transient", "compute") * 3:
        folder.fail(f"image {second} {told(cause)}")
        folder.call("tick")
        if folder.failures()["image"].quarantined:
            break
    failure = folder.failures()["image"]
    assert failure.quarantined and failure.attempts <= 6
