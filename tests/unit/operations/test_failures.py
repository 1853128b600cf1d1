"""Causes, attempts and quarantine of failed work."""

import datetime as dt
import json

import pytest

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import Config
from dsa110_contimg.operations import failures

GROUP = {"group": "20260210T001436", "night": "2026-02-10"}


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "results")


def event(tmp_path, words, rule="convert", wildcards=GROUP):
    log = tmp_path / "job.log"
    log.write_text(words)
    return {
        "end": "failed",
        "rule": rule,
        "wildcards": wildcards,
        "log": str(log),
        "command": "python /x/workflow/scripts/convert.py a b",
    }


def told(cause, message="why"):
    line = json.dumps({"cause": cause, "message": message, "status": 3})
    return f"some words\ncontimg convert: why\n{failures.MARK}{line}\n"


@pytest.mark.parametrize(
    ("cause", "attempts"),
    [("data", 1), ("config", 1), ("compute", 3), ("bug", 3), ("transient", 4)],
)
def test_work_is_tried_as_often_as_its_cause_deserves(tmp_path, layout, cause, attempts):
    states = [
        failures.note(layout, event(tmp_path, told(cause)), "as it was").state
        for _ in range(attempts)
    ]
    assert states == ["waiting"] * (attempts - 1) + ["quarantined"]
    (failure,) = failures.read_all(layout, ["2026-02-10"])
    assert (failure.cause, failure.message, failure.attempts) == (cause, "why", attempts)
    assert failure.what == "20260210T001436"
    assert failures.holds(failure, "as it was")


def test_attempts_count_anew_when_what_failed_has_changed(tmp_path, layout):
    for fingerprint in ("a", "a", "b"):
        failure = failures.note(layout, event(tmp_path, told("compute")), fingerprint)
    assert failure.attempts == 1
    failure = failures.note(layout, event(tmp_path, told("transient")), "b")
    assert failure.attempts == 2, "another cause is the same failure"
    assert failure.causes == {"compute": 1, "transient": 1}


COMMAND = "python /x/workflow/scripts/convert.py a b"


def test_a_fingerprint_follows_files_options_and_programs(tmp_path, monkeypatch):
    raw = tmp_path / "a.hdf5"
    raw.write_text("half")
    config = Config()
    before = failures.fingerprint(config, COMMAND, [str(raw)])
    assert failures.fingerprint(config, COMMAND, [str(raw)]) == before
    raw.write_text("whole")
    assert failures.fingerprint(config, COMMAND, [str(raw)]) != before
    raw.write_text("half")
    other = Config.model_validate({"photometry": {"upper_limit_sigma": 4}})
    same_files = failures.fingerprint(config, COMMAND, [str(raw)])
    assert failures.fingerprint(other, COMMAND, [str(raw)]) != same_files
    program = tmp_path / "wsclean"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failures.fingerprint(config, COMMAND, [str(raw)]) != same_files


def test_what_failed_for_the_moment_is_tried_again_after_a_while(tmp_path, layout):
    for _ in range(4):
        failure = failures.note(layout, event(tmp_path, told("transient")), "f")
    last = dt.datetime.fromisoformat(failure.last_utc)
    after = {s: failures.holds(failure, "f", last + dt.timedelta(seconds=s)) for s in (1, 3601, -9)}
    assert after == {1: True, 3601: False, -9: False}


def test_success_removes_the_record_of_the_same_work_only(tmp_path, layout):
    failures.note(layout, event(tmp_path, told("data")), "f")
    failures.clear(layout, event(tmp_path, "", rule="group"))
    assert failures.read_all(layout, ["2026-02-10"])
    failures.clear(layout, event(tmp_path, "", rule="convert"))
    assert not failures.read_all(layout, ["2026-02-10"])


def test_a_solution_a_tile_a_night_and_all_nights_fail_apart(tmp_path, layout):
    for rule, wildcards in [
        ("calibrate", GROUP),
        ("image", GROUP),
        ("night_mosaic", {"night": "2026-02-10"}),
        ("lightcurves", {}),
    ]:
        failures.note(layout, event(tmp_path, told("data"), rule, wildcards), "f")
    found = {f.rule: f.what for f in failures.read_all(layout, ["2026-02-10"])}
    assert found == {
        "lightcurves": "lightcurves",
        "night_mosaic": "2026-02-10",
        "calibrate": "20260210T001436",
        "image": "20260210T001436",
    }


def test_of_jobs_that_travelled_together_the_one_that_tells_counts(tmp_path):
    dumb = event(tmp_path, "") | {"rule": "image", "log": str(tmp_path / "absent.log")}
    tells = event(tmp_path, told("data"), rule="apply")
    for events in ([dumb, tells], [tells, dumb]):
        assert [e["rule"] for e in failures.failed(events)] == ["apply"]
    other = event(tmp_path, told("data"), "image", {**GROUP, "group": "20260210T001945"})
    done = event(tmp_path, "", rule="group") | {"end": "done"}
    assert len(failures.failed([tells, other, done])) == 2


def test_a_record_that_cannot_be_read_keeps_nothing_from_being_tried(layout):
    path = failures.path_of(layout, "image", GROUP)
    path.parent.mkdir(parents=True)
    path.write_text('{"rule": "image"')
    assert failures.read_all(layout, ["2026-02-10"]) == []
