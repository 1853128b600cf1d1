"""A snapshot counts right and costs little; metrics parse; alerts are told once, and their end."""

import datetime as dt
import http.server
import json
import os
import shutil
import socket
import socketserver
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dsa110_contimg.calibration.plan import CalibrationPlan
from dsa110_contimg.conversion.inventory import Group, Inventory
from dsa110_contimg.core import times
from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import AlertsOptions
from dsa110_contimg.core.times import group_id
from dsa110_contimg.operations import closing, publish
from dsa110_contimg.operations import metrics as prometheus
from dsa110_contimg.operations import snapshot as snapshots
from dsa110_contimg.operations.alerts import Alert, advance, evaluate, telling
from dsa110_contimg.operations.failures import Failure
from dsa110_contimg.operations.planning import Plan

NIGHT = "2026-02-10"
START_MJD = 61081.05
TILE_S = 309.237645312
#: Unix time of the start of the first group.
START = (START_MJD - 40587) * 86400


def group(number, state="complete", files=16):
    start = START_MJD + number * TILE_S / 86400
    paths = {sb: f"incoming/{number}_sb{sb:02d}.hdf5" for sb in range(files)}
    return Group(group_id(start), NIGHT, state, paths, start, TILE_S, 24, 33.3, 24.4, 33.2, [])


def failure(what, rule="image", state="waiting", cause="compute", night=NIGHT):
    return Failure(
        rule=rule,
        wildcards={"night": night, "group": what},
        cause=cause,
        state=state,
        message='wsclean said "no"',
        log="results/logs/x.log",
        command="python workflow/scripts/image.py",
        attempts=2,
        first_utc="2026-02-10T02:00:00+00:00",
        last_utc="2026-02-10T03:00:00+00:00",
    )


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for name in ("incoming", "results", "tmp"):
        (tmp_path / name).mkdir()
    return load_config({"incoming": "incoming", "results": "results"})


def touch(path, moment=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    if moment is not None:
        os.utime(path, (moment, moment))


@pytest.fixture
def plan(config):
    """Nine groups, one in each state."""
    layout = Layout(config.results)
    groups = [group(i) for i in range(7)]
    groups += [group(7, "collecting", 9), group(8, "failed", 3)]
    ids = [g.id for g in groups]
    for i, kinds in enumerate(
        [
            ("hdf5", "ms", "image.fits", "photometry.csv"),
            ("hdf5", "ms", "image.fits"),
            ("hdf5", "ms"),
            ("hdf5",),
            ("hdf5", "ms"),
        ]
    ):
        for kind in kinds:
            touch(layout.group(ids[i], kind))
    layout.group(ids[0], "bcal").mkdir()
    Path(f"{layout.group(ids[0], 'bcal')}.json").write_text('{"verdict": "pass"}')
    worked_on = {g.id: g for g in groups[:7] if g.id != ids[5]}
    return Plan(
        inventory=Inventory(groups, [{"path": "incoming/x_sb00.hdf5", "reason": "empty file"}]),
        nights=(NIGHT,),
        groups=worked_on,
        calibration=CalibrationPlan(
            transits={ids[0]: "3C48"},
            candidates={i: [ids[0]] for i in worked_on if i != ids[4]},
            refused={ids[4]: "no calibration within 30 days"},
        ),
        epochs={},
        failures=(failure(ids[5], state="quarantined"), failure(ids[3])),
        set_aside=frozenset({ids[5]}),
    )


# --- snapshot -------------------------------------------------------------------------------------


def test_each_group_is_counted_in_one_state(config, plan):
    state = snapshots.snapshot(config, plan, now=START + 3600)
    assert state["groups"] == {
        "collecting": 1,
        "incomplete": 1,
        "ready": 1,
        "grouped": 0,
        "converted": 1,
        "imaged": 1,
        "waiting": 1,
        "measured": 1,
        "refused": 1,
        "quarantined": 1,
    }
    assert sum(state["groups"].values()) == len(state["group_list"]) == 9
    assert state["queue"] == 4
    by_id = {g["id"]: g for g in state["group_list"]}
    calibrator = plan.inventory.groups[0].id
    assert by_id[calibrator]["notes"] == ["transit of 3C48"]
    assert 'image: wsclean said "no"' in by_id[plan.inventory.groups[5].id]["notes"]
    assert json.loads(json.dumps(state)) == state


def test_ages_count_from_the_end_of_the_data(config, plan):
    now = START + 9 * TILE_S + 100
    state = snapshots.snapshot(config, plan, now=now)
    assert state["last_data"]["group"] == group(8).id
    assert state["last_data"]["age_s"] == 100
    assert state["last_calibration"]["group"] == group(0).id
    # Ids are cut to the second.
    assert state["calibration_age_at_last_data_s"] == pytest.approx(8 * TILE_S, abs=1)


def test_a_failed_calibration_is_none(config, plan):
    layout = Layout(config.results)
    Path(f"{layout.group(group(0).id, 'bcal')}.json").write_text('{"verdict": "fail"}')
    assert snapshots.snapshot(config, plan)["last_calibration"] is None
    entry = asdict(group(-200))
    closing.write(
        layout,
        closing.ClosedNight(
            "2026-02-09",
            "2026-02-10T00:30:00Z",
            {entry["id"]: ""},
            [{"group": entry, "calibrator": "3C48", "verdict": "pass"}],
        ),
    )
    state = snapshots.snapshot(config, plan)
    assert state["last_calibration"]["group"] == entry["id"]
    assert (state["nights"]["open"], state["nights"]["closed"]) == ([NIGHT], 1)


def test_throughput_is_data_done_within_the_hour(config, plan):
    """Of 13 tiles, 12 within the hour: 12 x 309 s of data in 3600 s."""
    now = time.time()
    layout = Layout(config.results)
    more = {}
    for i in range(20, 32):
        more[group(i).id] = group(i)
        touch(layout.group(group(i).id, "photometry.csv"), now - 100 * (i - 19))
    touch(layout.group(group(0).id, "photometry.csv"), now - 4000)
    state = snapshots.snapshot(config, replace(plan, groups=plan.groups | more), now=now)
    assert state["tiles_last_hour"] == 12
    assert state["realtime_ratio"] == pytest.approx(12 * TILE_S / 3600, abs=1e-3)


def test_tiles_of_a_night_that_has_just_closed_count(config, plan):
    layout = Layout(config.results)
    name = group(-200).id
    touch(layout.group(name, "photometry.csv"))
    closing.write(layout, closing.ClosedNight("2026-02-09", "2026-02-10T00:30:00Z", {name: ""}))
    assert snapshots.snapshot(config, plan)["tiles_last_hour"] == 2
    old = time.time() - 7200
    os.utime(layout.night("2026-02-09", "closed.json"), (old, old))
    assert snapshots.snapshot(config, plan)["tiles_last_hour"] == 1


def test_jobs_are_those_of_runs_that_ended_within_the_hour(config, plan):
    now = time.time()

    def run(began, ended, done, failed):
        stamp = dt.datetime.fromtimestamp(now - began, dt.UTC)
        path = config.results / "runs" / f"{stamp:%Y%m%dT%H%M%S.%f}.json"
        path.parent.mkdir(exist_ok=True)
        end = None if ended is None else times.utc_of_unix(now - ended)
        path.write_text(json.dumps({"ended_utc": end, "jobs_done": done, "jobs_failed": failed}))

    run(100, None, None, None)
    run(2000, 1900, 7, 2)
    run(9000, 600, 40, 1)
    run(9000.5, 8000, 100, 100)
    run(200_000, 190_000, 100, 100)
    (config.results / "runs/.tmp-1-x-y.json").write_text("half")
    assert snapshots.snapshot(config, plan)["jobs_last_hour"] == {"done": 47, "failed": 3}


def test_who_is_at_work_is_told(config, plan):
    assert snapshots.snapshot(config, plan)["running"] is None
    lock = config.results / ".lock"
    who = {"command": "tick", "pid": os.getpid(), "host": socket.gethostname()}
    lock.write_text(json.dumps(who))
    running = snapshots.snapshot(config, plan)["running"]
    assert (running["command"], running["pid"]) == ("tick", os.getpid())
    lock.write_text(json.dumps(who | {"pid": 999999999}))
    assert snapshots.snapshot(config, plan)["running"] is None


def test_a_snapshot_does_not_walk_closed_nights(config, plan, monkeypatch):
    layout = Layout(config.results)
    nights = [f"2025-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 28)]
    for night in nights:
        touch(layout.night(night, "groups/20250101T000000/x.ms"))
        closing.write(
            layout, closing.ClosedNight(night, "2026-01-01T00:00:00Z", {"20250101T000000": ""})
        )
        old = time.time() - 2 * 86400
        os.utime(layout.night(night, "closed.json"), (old, old))
    looked = []
    scandir, glob = os.scandir, Path.glob

    def counting(path="."):
        looked.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    monkeypatch.setattr(Path, "glob", lambda self, p: (looked.append(str(self)), glob(self, p))[1])
    read = []
    text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **o: (read.append(self), text(self, **o))[1]
    )
    snapshots.snapshot(config, plan)
    assert not [path for path in looked if "2025-" in path]
    assert len([path for path in read if "2025-" in str(path)]) <= 1


def test_people_can_read_it(config, plan):
    lines = snapshots.render(snapshots.snapshot(config, plan, now=START + 9 * TILE_S + 600))
    text = "\n".join(lines)
    assert "1 open nights (1 collecting, 1 incomplete, 1 ready," in text
    assert "to be made: 4 tiles" in text
    assert f"last data: 10 min ago ({group(8).id})" in text
    assert "quarantined: image" in text and "at work: nothing" in text


# --- metrics --------------------------------------------------------------------------------------


def samples(text):
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge" and family.documentation
        for sample in family.samples:
            found[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return found


def test_metrics_are_what_the_snapshot_says(config, plan):
    state = snapshots.snapshot(config, plan, now=START + 3600)
    state["disks"][0]["path"] = 'a "quoted"\\new\npath'
    found = samples(prometheus.metrics(state, {"disk": Alert("critical", "full")}))
    assert found[("contimg_groups", ("state", "quarantined"))] == 1
    assert found[("contimg_queue_tiles",)] == 4
    assert found[("contimg_failures", ("cause", "compute"), ("state", "waiting"))] == 1
    end = START + 9 * TILE_S
    assert found[("contimg_last_data_timestamp_seconds",)] == pytest.approx(end, abs=1)
    free = ("contimg_disk_free_bytes", ("path", 'a "quoted"\\new\npath'))
    assert found[free] == state["disks"][0]["free_bytes"]
    assert found[("contimg_alert", ("name", "disk"))] == 3
    assert not [key for key in found if key[0] == "contimg_last_tick_timestamp_seconds"]


def test_metrics_replace_the_file_at_once(config, plan, tmp_path):
    state = snapshots.snapshot(config, plan)
    elsewhere = tmp_path / "node_exporter" / "contimg.prom"
    alerts = config.alerts.model_copy(update={"metrics": elsewhere})
    publish.publish(config, state)
    publish.publish(config.model_copy(update={"alerts": alerts}), state)
    assert samples(elsewhere.read_text())
    assert samples((config.results / "metrics.prom").read_text())
    assert [p.name for p in elsewhere.parent.iterdir()] == ["contimg.prom"]


# --- which troubles there are ---------------------------------------------------------------------


QUIET = {
    "schema": 1,
    "time_utc": "2026-02-10T12:00:00Z",
    "host": "here",
    "results": "/results",
    "trouble": None,
    "by_run": True,
    "nights": {"open": [NIGHT], "closed": 0, "overdue": {}, "close_s": {}},
    "groups": {"measured": 3},
    "group_list": [],
    "queue": 0,
    "last_data": {"group": "20260210T115000", "time_utc": "2026-02-10T11:55:09Z", "age_s": 291},
    "last_calibration": {
        "group": "20260210T011325",
        "time_utc": "2026-02-10T01:18:34Z",
        "age_s": 38486,
    },
    "calibration_age_at_last_data_s": 38195,
    "last_product": {"time_utc": "2026-02-10T11:58:00Z", "age_s": 120},
    "last_tick": {"time_utc": "2026-02-10T11:55:00Z", "age_s": 300},
    "running": None,
    "held_back": [],
    "failures": [],
    "disks": [{"path": "/results", "free_bytes": 50, "total_bytes": 100}],
    "tiles_last_hour": 12,
    "realtime_ratio": 1.03,
    "jobs_last_hour": {"done": 90, "failed": 0},
    "rejected": [],
    "damaged": [],
    "illegible": [],
}
RUNNING = {
    "command": "tick",
    "pid": 1,
    "host": "here",
    "since_utc": "2026-02-10T11:00:00Z",
    "seen_utc": "2026-02-10T11:59:50Z",
    "phase": "tiles of 2026-02-10",
    "jobs_done": 3,
    "jobs_failed": 0,
}
SILENT = QUIET["last_data"] | {"age_s": 3601}
IDLE = {"time_utc": "2026-02-10T11:29:00Z", "age_s": 1860}

#: What changes, the alert that follows, its severity, how long it must have lasted. The thresholds
#: are those of the reference system's rules: a day, 100, 10 %, 15 %, 30 min.
TROUBLES = [
    ({"trouble": "incoming: there is no folder /raw"}, "trouble", "critical", 300),
    ({"last_data": SILENT}, "silence", "warning", 0),
    ({"calibration_age_at_last_data_s": 86_401}, "calibration", "warning", 1800),
    ({"queue": 101, "realtime_ratio": 1.2}, "backlog", "warning", 900),
    ({"jobs_last_hour": {"done": 88, "failed": 10}}, "failures", "warning", 600),
    (
        {"disks": [{"path": "/results", "free_bytes": 14.9, "total_bytes": 100}]},
        "disk /results",
        "critical",
        300,
    ),
    ({"running": RUNNING, "last_product": IDLE}, "stuck", "critical", 0),
    ({"running": RUNNING | {"seen_utc": "2026-02-10T11:29:59Z"}}, "stuck", "critical", 0),
    (
        {"by_run": False, "last_tick": QUIET["last_tick"] | {"age_s": 901}},
        "absent",
        "critical",
        0,
    ),
    ({"by_run": False, "last_tick": None}, "absent", "critical", 0),
    (
        {"nights": QUIET["nights"] | {"overdue": {NIGHT: 60}}},
        f"late {NIGHT}",
        "warning",
        6 * 3600,
    ),
    ({"queue": 5, "realtime_ratio": 0.9}, "slow", "info", 3600),
    ({"held_back": [["20260210T011325", "job 7"]]}, "held back 20260210T011325", "warning", 0),
    ({"last_data": QUIET["last_data"] | {"age_s": -7200}}, "clock", "warning", 0),
    ({"damaged": ["nights/a.fits"]}, "damaged", "critical", 0),
    (
        {"rejected": [{"path": "x", "reason": "dated ahead of the clock by 9 s; set the clocks"}]},
        "clock",
        "warning",
        0,
    ),
    ({"last_tick": {"time_utc": "2026-02-10T13:00:00Z", "age_s": -3600}}, "clock", "warning", 0),
    (
        {"failures": [asdict(failure("G", state="quarantined")) | {"what": "G"}]},
        "set aside image G",
        "warning",
        0,
    ),
]
#: Just on the right side of each threshold.
NO_TROUBLES = [
    {},
    {"last_data": QUIET["last_data"] | {"age_s": 3600}},
    {"last_data": None, "last_calibration": None, "calibration_age_at_last_data_s": None},
    {"calibration_age_at_last_data_s": 86_400},
    {"queue": 100, "realtime_ratio": 1.0},
    {"jobs_last_hour": {"done": 90, "failed": 10}},
    {"jobs_last_hour": {"done": 0, "failed": 1}},
    {"disks": [{"path": "/results", "free_bytes": 15, "total_bytes": 100}]},
    {"running": RUNNING},
    {"by_run": False},
    {"by_run": False, "last_tick": None, "running": RUNNING},
    {"last_tick": QUIET["last_tick"] | {"age_s": 9999}},
    {"running": RUNNING | {"since_utc": "2026-02-10T11:45:00Z"}, "last_product": IDLE},
    {"last_product": IDLE},
    {"failures": [asdict(failure("G")) | {"what": "G"}]},
    {"realtime_ratio": 0.0, "tiles_last_hour": 0},
]


@pytest.mark.parametrize(("change", "name", "severity", "hold_s"), TROUBLES)
def test_a_trouble_is_seen(change, name, severity, hold_s):
    found = evaluate(QUIET | change, AlertsOptions())
    assert list(found) == [name]
    assert (found[name].severity, found[name].hold_s) == (severity, hold_s)
    assert len(found[name].message.splitlines()) == 1


@pytest.mark.parametrize("change", NO_TROUBLES)
def test_no_trouble_is_invented(change):
    assert evaluate(QUIET | change, AlertsOptions()) == {}


def test_thresholds_can_be_taken_away():
    names = (
        "silence_min",
        "stale_calibration_h",
        "backlog",
        "failure_rate",
        "disk_free",
        "stuck_min",
        "slow",
    )
    options = AlertsOptions(**dict.fromkeys(names))
    everything = {key: value for change, *_ in TROUBLES[1:8] for key, value in change.items()}
    assert evaluate(QUIET | everything, options) == {}


# --- once, and again ------------------------------------------------------------------------------


FULL = {"disk": Alert("critical", "full", 300)}


class Channel:
    """Plays ticks and keeps what a channel was told."""

    def __init__(self, **options):
        self.options = AlertsOptions(**options)
        self.entries = {}

    def tick(self, now, alerts, delivered=True):
        self.entries = advance(self.entries, alerts, now)
        told = telling(self.entries, "mail", self.options, now)
        if delivered:
            for name in told.firing:
                self.entries[name]["told"]["mail"] = now
            for name in told.ended:
                del self.entries[name]["told"]["mail"]
        return [*told.firing, *(f"over: {name}" for name in told.ended)]


def test_an_alert_is_told_once_and_its_end_once():
    channel = Channel()
    ticks = [(0, FULL, []), (240, FULL, []), (300, FULL, ["disk"]), (360, FULL, [])]
    ticks += [(420, {}, ["over: disk"]), (480, {}, []), (540, FULL, []), (840, FULL, ["disk"])]
    for now, alerts, expected in ticks:
        assert channel.tick(now, alerts) == expected, now


def test_an_alert_that_passes_quickly_is_never_told():
    channel = Channel()
    assert channel.tick(0, FULL) == channel.tick(240, {}) == channel.tick(250, FULL) == []
    assert channel.tick(540, FULL) == []


def test_an_alert_that_lasts_is_repeated():
    channel = Channel(repeat_h=2)
    told = [now for now in range(0, 6 * 3600, 300) if channel.tick(now, FULL)]
    assert told == [300, 300 + 7200, 300 + 14400]


def test_what_was_not_delivered_is_told_later():
    channel = Channel()
    channel.tick(0, FULL)
    assert channel.tick(300, FULL, delivered=False) == ["disk"]
    assert channel.tick(360, FULL) == ["disk"]
    assert channel.tick(420, {}, delivered=False) == ["over: disk"]
    assert channel.tick(480, {}) == ["over: disk"]
    assert channel.tick(540, {}) == []


def test_a_clock_that_goes_back_repeats_at_most_once():
    channel = Channel()
    channel.tick(10_000, FULL)
    assert channel.tick(10_300, FULL) == ["disk"]
    assert channel.tick(0, FULL) == ["disk"]
    assert [now for now in range(60, 86_400, 60) if channel.tick(now, FULL)] == []


def test_the_least_severity_counts():
    slow = {"slow": Alert("info", "slow")}
    assert Channel().tick(0, slow) == []
    assert Channel(min_severity="info").tick(0, slow) == ["slow"]
    assert Channel(min_severity="critical").tick(0, {"x": Alert("warning", "x")}) == []


# --- delivery -------------------------------------------------------------------------------------


@pytest.fixture
def webhook():
    """A web server that keeps what is posted; `status` is what it answers."""
    posts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.posts = 200, posts
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def mail_server():
    """A mail server that keeps what it is sent."""
    mails = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            def say(text):
                self.wfile.write(f"{text}\r\n".encode())

            say("220 here")
            mail = {"to": []}
            for line in self.rfile:
                word = line.decode().strip()
                verb = word.upper().split(":")[0].split(" ")[0]
                if verb == "RCPT":
                    mail["to"].append(word.split("<")[1].split(">")[0])
                if verb == "DATA":
                    say("354 go on")
                    rows = iter(self.rfile.readline, b".\r\n")
                    mail["text"] = b"".join(rows).decode()
                    mails.append(mail)
                say("221 bye" if verb == "QUIT" else "250 ok")
                if verb == "QUIT":
                    return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.mails, server.address = mails, f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def telling_config(config, **values):
    return config.model_copy(update={"alerts": AlertsOptions(**values)})


def at(seconds, **change):
    moment = dt.datetime(2026, 2, 10, 12, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    return QUIET | {"time_utc": f"{moment:%Y-%m-%dT%H:%M:%SZ}"} | change


def test_the_webhook_is_told_and_told_of_the_end(config, webhook):
    config = telling_config(config, webhook=webhook.url)
    for seconds in (0, 60, 120):
        publish.publish(config, at(seconds, last_data=SILENT))
    publish.publish(config, at(180))
    publish.publish(config, at(240))
    begin, end = webhook.posts
    (alert,) = begin["alerts"]
    assert alert == {
        "name": "silence",
        "status": "firing",
        "severity": "warning",
        "message": "no new data for 60 min",
        "since_utc": "2026-02-10T12:00:00Z",
    }
    assert begin["text"].splitlines() == [
        "contimg on here, /results:",
        "[warning] no new data for 60 min (since 2026-02-10T12:00:00Z)",
    ]
    assert [a["status"] for a in end["alerts"]] == ["ended"]
    assert "[over] no new data" in end["text"]


def test_a_webhook_that_refuses_is_tried_again(config, webhook, caplog):
    config = telling_config(config, webhook=webhook.url)
    webhook.status = 500
    publish.publish(config, at(0, last_data=SILENT))
    assert "alerts were not told by webhook" in caplog.text
    webhook.status = 200
    publish.publish(config, at(60, last_data=SILENT))
    publish.publish(config, at(120, last_data=SILENT))
    assert len(webhook.posts) == 2


def test_mail_reaches_everyone_and_says_how_things_are(config, mail_server):
    config = telling_config(
        config, mail_host=mail_server.address, mail_to=["a@x.org", "b@x.org"], mail_from="c@x.org"
    )
    change = {"last_data": SILENT, "running": RUNNING, "last_product": IDLE}
    publish.publish(config, at(0, **change))
    publish.publish(config, at(60, **change))
    (mail,) = mail_server.mails
    assert mail["to"] == ["a@x.org", "b@x.org"]
    head, _, body = mail["text"].partition("\r\n\r\n")
    assert "Subject: contimg: [critical] 'tick' (process 1 on here) is at work and has" in head
    assert "and 1 more" in head.replace("\r\n", "")
    assert "[warning] no new data" in body and "last calibration:" in body


@pytest.mark.parametrize(
    "broken",
    [
        {"webhook": "http://127.0.0.1:1/nobody"},
        {"webhook": "file:///etc/passwd"},
        {"webhook": "http://[nonsense"},
        {"mail_to": ["a@x.org"], "mail_host": "127.0.0.1:1"},
        {"mail_to": ["a@x.org"], "mail_host": "127.0.0.1:what"},
    ],
)
def test_what_cannot_be_delivered_stops_nothing(config, broken, caplog):
    publish.publish(telling_config(config, **broken), at(0, last_data=SILENT))
    assert "alerts were not told by" in caplog.text
    assert (config.results / "metrics.prom").is_file()


def test_one_deaf_channel_does_not_silence_the_other(config, webhook):
    config = telling_config(
        config, webhook=webhook.url, mail_to=["a@x.org"], mail_host="127.0.0.1:1"
    )
    publish.publish(config, at(0, last_data=SILENT))
    publish.publish(config, at(60, last_data=SILENT))
    assert len(webhook.posts) == 1


def test_a_full_disk_is_told_once_though_nothing_can_be_kept_there(config, webhook):
    """The folder of the results is gone, as for the worst: the state goes elsewhere."""
    config = telling_config(config, webhook=webhook.url)
    shutil.rmtree(config.results)
    config.results.write_text("no folder")
    for seconds in (0, 60, 120):
        publish.publish(config, at(seconds, last_data=SILENT))
    assert len(webhook.posts) == 1
    config.results.unlink()
    config.results.mkdir()
    publish.publish(config, at(180, last_data=SILENT))
    publish.publish(config, at(240))
    assert len(webhook.posts) == 2


def test_a_state_that_is_no_json_is_begun_anew(config, webhook):
    config = telling_config(config, webhook=webhook.url)
    for text in ("{", "[]", '{"version": 99}'):
        (config.results / ".alerts.json").write_text(text)
        publish.publish(config, at(0, last_data=SILENT))
    assert len(webhook.posts) == 3


def test_that_nothing_can_be_done_is_told_too(config, caplog):
    """The disk of the raw files is away: no plan, no snapshot, but an alert."""
    config.incoming.rmdir()
    publish.publish(config)
    found = samples((config.results / "metrics.prom").read_text())
    assert found[("contimg_alert", ("name", "trouble"))] == 3
    assert "no snapshot: incoming: there is no folder incoming" in caplog.text
    assert "Traceback" not in caplog.text
    entry = json.loads((config.results / ".alerts.json").read_text())["alerts"]["trouble"]
    assert entry["message"].startswith("nothing can be done: incoming: there is no folder")


def test_what_kept_a_tick_from_working_is_told(config, plan):
    publish.publish(config, plan=plan, trouble="disk full: 1 GB free")
    found = samples((config.results / "metrics.prom").read_text())
    assert found[("contimg_alert", ("name", "trouble"))] == 3
    assert found[("contimg_queue_tiles",)] == 4


def test_the_last_tick_is_the_last_that_published(config, plan):
    assert snapshots.snapshot(config, plan)["last_tick"] is None
    publish.publish(config, at(0))
    moment = dt.datetime(2026, 2, 10, 12, 5, tzinfo=dt.UTC).timestamp()
    assert snapshots.snapshot(config, plan, now=moment)["last_tick"]["age_s"] == 300
