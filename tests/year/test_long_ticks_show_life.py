"""Long ticks look dead and `stuck` can never fire under the shipped timer: a heartbeat apart from
the work; Prometheus files without duplicates after a kill.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dsa110_contimg.core.options import AlertsOptions, OperationsOptions
from support.night import Operations, kill_tree, raw_groups


@pytest.fixture
def webhook():
    """A web server that keeps what is posted and what is asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            server.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer()

        def do_GET(self):
            server.asked.append(self.path)
            self.answer()

        def answer(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.posts, server.asked = [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def known(model, **values):
    """Return what a release knows of some options, as the command line takes it."""
    return json.dumps({k: v for k, v in values.items() if k in model.model_fields})


class Watched(Operations):
    """A working folder whose runs look at themselves often and are soon called stuck."""

    more = ()

    def command(self, *arguments, **options):
        operations = known(
            OperationsOptions, close_after_s=0, min_free_gb=0.1, heartbeat_s=0.2, budget_s=3600
        )
        command = [sys.executable, "-m", "dsa110_contimg", *arguments, "--config"]
        config = ["incoming=incoming", "inventory={wait_s: 0}", f"operations={operations}"]
        return [*command, *config, *self.more]


@pytest.fixture
def night(tmp_path):
    made = Watched.make(tmp_path / "work")
    raw_groups(made.incoming, 1)
    return made


def metrics(path):
    """Return what Prometheus' collector makes of a file; none may be there twice."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def wait_for(condition, what, process):
    for _ in range(1200):
        if found := condition():
            return found
        assert process.poll() is None, f"{what} did not happen before the end"
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen")


def told(webhook):
    return {alert["name"]: alert["status"] for post in webhook.posts for alert in post["alerts"]}


def test_a_tick_that_makes_nothing_is_told_while_it_is_at_work(night, webhook):
    """With nothing else looking: the timer starts no tick while one is at work."""
    values = {"webhook": f"{webhook.url}/hook", "ping": f"{webhook.url}/ping", "stuck_min": 0.02}
    night.more = (f"alerts={known(AlertsOptions, **values)}",)
    tick = night.start("tick", STUB_SECONDS="600")
    try:
        wait_for(lambda: told(webhook).get("stuck") == "firing", "alert", tick)
        shown = metrics(night.results / "metrics.prom")
        assert shown[("contimg_running",)] == 1
        assert time.time() - shown[("contimg_last_run_timestamp_seconds",)] < 300
        beat = json.loads((night.results / ".heartbeat").read_text())
        assert beat["run"]["pid"] == tick.pid and "products of 2026-02-10" in beat["phase"]
        assert "/ping" in webhook.asked
        status, output = night.call("status")
        assert status == 0 and f"at work: tick (process {tick.pid} on" in output, output
        assert beat["phase"] in output
    finally:
        kill_tree(tick)


def test_a_tick_ends_in_its_time_with_its_last_word(night, webhook):
    """The heartbeat neither holds it up nor speaks after it."""
    status, output = night.call("tick")
    assert status == 0, output
    shown = metrics(night.results / "metrics.prom")
    assert shown[("contimg_running",)] == 0
    assert shown[("contimg_nights_closed",)] == 1
    day_end = 1770768000  # 2026-02-11
    closed = (night.results / "nights/2026-02-10/closed.json").stat().st_mtime
    took = shown[("contimg_night_close_seconds", ("night", "2026-02-10"))]
    assert took == pytest.approx(closed - day_end, abs=1)


def test_that_nothing_runs_is_told_by_who_looks_from_outside(night, webhook):
    values = {"webhook": webhook.url, "absent_min": 0.01}
    night.more = (f"alerts={known(AlertsOptions, **values)}",)
    assert night.call("tick")[0] == 0
    time.sleep(1)
    status, output = night.call("watch")
    assert status == 0, output
    assert told(webhook)["absent"] == "firing"
    before = metrics(night.results / "metrics.prom")[("contimg_last_run_timestamp_seconds",)]
    assert night.call("watch")[0] == 0
    after = metrics(night.results / "metrics.prom")[("contimg_last_run_timestamp_seconds",)]
    assert before == after
    assert night.call("tick")[0] == 0
    assert told(webhook)["absent"] == "ended"


#: A tick that is killed while it puts its metrics in place.
KILLED = """
import os, sys
from dsa110_contimg import cli
replace = os.replace
def killed(source, target, **more):
    os._exit(9) if str(target).endswith(".prom") else replace(source, target, **more)
os.replace = killed
cli.main(sys.argv[1:])
"""


def test_a_kill_leaves_no_second_file_for_prometheus(night, tmp_path):
    textfiles = tmp_path / "textfiles"
    night.more = (f"alerts={{metrics: {textfiles / 'contimg.prom'}}}",)
    killed = [sys.executable, "-c", KILLED, *night.command("tick")[3:]]
    done = subprocess.run(killed, cwd=night.path, env=night.env, capture_output=True, text=True)
    assert done.returncode == 9, done.stdout + done.stderr
    assert not list(textfiles.glob("*.prom")) and not list(textfiles.glob(".*.prom"))
    # What a release before left there goes.
    host = "".join(c if c.isalnum() else "_" for c in os.uname().nodename)
    (textfiles / f".tmp-4194304-{host}-contimg.prom").write_text("contimg_queue_tiles 1\n")
    assert night.call("tick")[0] == 0
    assert [path.name for path in textfiles.iterdir()] == ["contimg.prom"]
    assert metrics(textfiles / "contimg.prom")
