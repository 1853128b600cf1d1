"""Metrics and alerts to where people see them: a file, a webhook, mail.

What was told is kept in ``results/.alerts.json``. Nothing here stops the work: what cannot be
delivered is logged, and tried again by the next look. Looks are taken at the end of each tick, by
the watcher of a run while that works (`watch`), and from outside by ``contimg watch``.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import smtplib
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from ..core import runs
from ..core.credentials import MAIL_PASSWORD, WEBHOOK, is_given, secret
from ..core.errors import ContimgError, cause_of, message_of
from ..core.files import HOST, owner, write_text
from ..core.options import AlertsOptions, Config
from ..core.times import unix_of_utc, utc_of_unix
from .alert_state import load, save
from .alerts import SEVERITIES, Telling, advance, evaluate, telling
from .locking import holder
from .metrics import metrics
from .planning import Plan
from .snapshot import HEARTBEAT, empty, render, snapshot

__all__ = ["publish", "watch"]

log = logging.getLogger(__name__)


#: Time limit of one delivery, s.
DELIVERY_S = 10.0


#: What may go wrong with a delivery.
TROUBLES = (OSError, ValueError, smtplib.SMTPException, http.client.HTTPException, ContimgError)


#: Most of a processor that looks of a run's watcher take.
SHARE = 0.1


#: Names of this machine, as it appears in addresses.
LOCAL = ("localhost", "127.0.0.1", "::1")


def publish(
    config: Config,
    state: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    trouble: str | None = None,
    by_run: bool = True,
) -> None:
    """Write metrics and tell alerts; never raises for what goes wrong there.

    Of several processes that publish at once one does it.

    Parameters
    ----------
    config : Config
        The configuration.
    state : mapping, optional
        A snapshot; taken now, if it is not given.
    plan : Plan, optional
        The present plan, for the snapshot; made if it is not given.
    trouble : str, optional
        What kept a tick from working.
    by_run : bool
        Whether a run tells this of itself. Who looks from outside can tell that none does.
    """
    try:
        with _alone(config.results) as alone:
            if alone:
                state = _look(config, plan) if state is None else dict(state)
                state["trouble"] = state["trouble"] or trouble
                _publish(config, state | {"by_run": by_run})
                if by_run:
                    _ping(config.alerts)
    except Exception:  # the work must go on, whatever happens to those who watch it
        log.exception("metrics and alerts were not published")


def watch(config: Config, facts: Mapping[str, str]) -> None:
    """Wait for a while, then show how a run at work is; for `locking.hold`, whose watcher calls it.

    Parameters
    ----------
    config : Config
        The configuration.
    facts : mapping
        What the run says of itself: ``phase``, in words, and ``events``, the file in which its
        logger notes the jobs that ended.
    """
    global _cost_s
    time.sleep(max(config.operations.heartbeat_s, _cost_s / SHARE))
    began = time.monotonic()
    try:
        ended = [event["end"] for event in runs.read_events(Path(facts["events"]))]
    except (OSError, KeyError):
        ended = []
    content = {
        "time_utc": utc_of_unix(time.time()),
        "run": holder(config.results),
        "phase": facts.get("phase"),
        "jobs_done": ended.count("done"),
        "jobs_failed": ended.count("failed"),
    }
    try:
        write_text(config.results / HEARTBEAT, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        log.warning("%s was not written: %s", HEARTBEAT, error)
    publish(config)
    _cost_s = time.monotonic() - began


#: How long the last look of this process took, s.
_cost_s = 0.0


def _look(config: Config, plan: Plan | None) -> dict[str, Any]:
    """Take a snapshot; an empty one that tells the trouble, if none can be taken."""
    try:
        return snapshot(config, plan)
    except Exception as error:
        log.warning("no snapshot: %s", message_of(error), exc_info=cause_of(error) == "bug")
        return empty(config, time.time()) | {"trouble": message_of(error)}


@contextlib.contextmanager
def _alone(results: Path) -> Iterator[bool]:
    try:
        file = open(results / ".alerts.lock", "w")  # noqa: SIM115
    except OSError:  # a full disk is just what must be told
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _publish(config: Config, state: Mapping[str, Any]) -> None:
    options, now = config.alerts, unix_of_utc(state["time_utc"])
    alerts = evaluate(state, options)
    try:
        _write_metrics(options.metrics or config.results / "metrics.prom", metrics(state, alerts))
    except OSError as error:
        log.warning("metrics were not written: %s", error)
    before = load(config)
    entries = advance(before.get("alerts", {}), alerts, now)
    channels = {}
    if options.webhook or is_given(WEBHOOK):
        channels["webhook"] = _post
    if options.mail_to:
        channels["mail"] = _mail
    for channel, send in channels.items():
        if not (told := telling(entries, channel, options, now)):
            continue
        try:
            send(options, state, told)
        except TROUBLES as error:
            log.warning("alerts were not told by %s: %s", channel, error)
            continue
        for name in told.firing:
            entries[name]["told"][channel] = now
        for name in told.ended:
            del entries[name]["told"][channel]
    for entry in entries.values():  # what is not configured any more needs no telling
        entry["told"] = {c: t for c, t in entry["told"].items() if c in channels}
    kept = {n: e for n, e in entries.items() if e["ended"] is None or e["told"]}
    last_tick = now if state["by_run"] else before.get("last_tick")
    save(config, {"version": 1, "last_tick": last_tick, "alerts": kept})


def _write_metrics(path: Path, text: str) -> None:
    """Write a file for Prometheus' collector, which reads whatever in its folder ends in .prom.

    A temporary that a kill leaves there would make it see each metric twice, and show none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for left in path.parent.glob(f".tmp-*-{path.name}"):  # of a release that named them so
        if (who := owner(left)) and who[1] == HOST:
            left.unlink(missing_ok=True)


def _lines(told: Telling) -> list[str]:
    firing = sorted(told.firing.values(), key=lambda e: -SEVERITIES.index(e["severity"]))
    return [
        *(f"[{e['severity']}] {e['message']} (since {utc_of_unix(e['since'])})" for e in firing),
        *(f"[over] {e['message']} (until {utc_of_unix(e['ended'])})" for e in told.ended.values()),
    ]


def _title(state: Mapping[str, Any]) -> str:
    return f"contimg on {state['host']}, {state['results']}"


def _post(options: AlertsOptions, state: Mapping[str, Any], told: Telling) -> None:
    """Post to the webhook; raise OSError or ValueError if it is not taken."""
    address = secret(WEBHOOK) or (options.webhook.get_secret_value() if options.webhook else "")
    entries = [
        {
            "name": name,
            "status": status,
            "severity": entry["severity"],
            "message": entry["message"],
            "since_utc": utc_of_unix(entry["since"]),
        }
        for status, group in (("firing", told.firing), ("ended", told.ended))
        for name, entry in group.items()
    ]
    content = {"text": "\n".join([f"{_title(state)}:", *_lines(told)]), "alerts": entries}
    _fetch("alerts.webhook", address, json.dumps(content).encode())


def _ping(options: AlertsOptions) -> None:
    """Show a dead man's switch that somebody is there."""
    if options.ping:
        try:
            _fetch("alerts.ping", options.ping.get_secret_value())
        except TROUBLES as error:
            log.warning("the dead man's switch was not reached: %s", error)


def _fetch(key: str, address: str, content: bytes | None = None) -> None:
    """Fetch a page or post to it; what goes wrong is told without the address, a secret."""
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{key} is no http or https address")
    headers = {"Content-Type": "application/json", "User-Agent": "contimg"}
    try:
        request = urllib.request.Request(address, content, headers)
        with urllib.request.urlopen(request, timeout=DELIVERY_S) as answer:
            answer.read(65536)
    except (ValueError, http.client.HTTPException) as error:
        raise ValueError(f"{key}: {type(error).__name__}") from None


def _mail(options: AlertsOptions, state: Mapping[str, Any], told: Telling) -> None:
    """Send mail; raise OSError or SMTPException if it is not taken."""
    lines = _lines(told)
    message = EmailMessage()
    message["From"] = options.mail_from
    message["To"] = ", ".join(options.mail_to)
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    message["Subject"] = f"contimg: {lines[0][:120]}{more}"
    message.set_content("\n".join([_title(state), "", *lines, "", *render(state)]) + "\n")
    with _mail_server(options) as server:
        server.send_message(message)


def _mail_server(options: AlertsOptions) -> smtplib.SMTP:
    """Return a connection to the mail server, logged in if there is a user.

    A password goes only to a server that proved who it is, over TLS.
    """
    host, _, port = options.mail_host.partition(":")
    context = ssl.create_default_context(cafile=options.mail_ca)
    server: smtplib.SMTP
    if is_private := int(port or 0) == smtplib.SMTP_SSL_PORT:
        server = smtplib.SMTP_SSL(host, int(port), timeout=DELIVERY_S, context=context)
    else:
        server = smtplib.SMTP(host, int(port or 0), timeout=DELIVERY_S)
    is_local = host in LOCAL
    try:
        server.ehlo()
        wanted = not is_private and bool(options.mail_user or not is_local)
        if wanted and server.has_extn("starttls"):
            server.starttls(context=context)
            is_private = True
        if options.mail_user:
            if not (is_private or (options.mail_plain_login and is_local)):
                raise smtplib.SMTPException(f"{host} offers no TLS: the password was not sent")
            password = secret(MAIL_PASSWORD, options.mail_password_file)
            server.login(options.mail_user, password or "")
    except BaseException:
        server.close()
        raise
    return server
