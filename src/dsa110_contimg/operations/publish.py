"""Metrics and alerts to where people see them: a file, a webhook, mail.

What was told is kept in ``results/.alerts.json``. Nothing here stops the work: what cannot be
delivered is logged, and tried again by the next tick.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import os
import smtplib
import time
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from ..core.errors import cause_of, message_of
from ..core.files import write_text
from ..core.options import AlertsOptions, Config
from ..core.times import unix_of_utc, utc_of_unix
from .alert_state import load, save
from .alerts import SEVERITIES, Telling, advance, evaluate, telling
from .metrics import metrics
from .planning import Plan
from .snapshot import empty, render, snapshot

__all__ = ["publish"]

log = logging.getLogger(__name__)


#: Time limit of one delivery, s.
DELIVERY_S = 10.0


#: Environment variable with the password of ``alerts.mail_user``.
PASSWORD = "CONTIMG_MAIL_PASSWORD"


def publish(
    config: Config,
    state: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    trouble: str | None = None,
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
    """
    try:
        with _alone(config.results) as alone:
            if alone:
                state = _look(config, plan) if state is None else dict(state)
                state["trouble"] = state["trouble"] or trouble
                _publish(config, state)
    except Exception:  # the work must go on, whatever happens to those who watch it
        log.exception("metrics and alerts were not published")


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
        write_text(options.metrics or config.results / "metrics.prom", metrics(state, alerts))
    except OSError as error:
        log.warning("metrics were not written: %s", error)
    entries = advance(load(config).get("alerts", {}), alerts, now)
    channels = {}
    if options.webhook:
        channels["webhook"] = _post
    if options.mail_to:
        channels["mail"] = _mail
    for channel, send in channels.items():
        if not (told := telling(entries, channel, options, now)):
            continue
        try:
            send(options, state, told)
        except (OSError, ValueError, smtplib.SMTPException, http.client.HTTPException) as error:
            log.warning("alerts were not told by %s: %s", channel, error)
            continue
        for name in told.firing:
            entries[name]["told"][channel] = now
        for name in told.ended:
            del entries[name]["told"][channel]
    for entry in entries.values():  # what is not configured any more needs no telling
        entry["told"] = {c: t for c, t in entry["told"].items() if c in channels}
    kept = {n: e for n, e in entries.items() if e["ended"] is None or e["told"]}
    save(config, {"version": 1, "last_tick": now, "alerts": kept})


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
    address = options.webhook or ""
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"alerts.webhook: {address!r} is no http or https address")
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
    request = urllib.request.Request(
        address,
        json.dumps(content).encode(),
        {"Content-Type": "application/json", "User-Agent": "contimg"},
    )
    with urllib.request.urlopen(request, timeout=DELIVERY_S) as answer:
        answer.read()


def _mail(options: AlertsOptions, state: Mapping[str, Any], told: Telling) -> None:
    """Send mail; raise OSError or SMTPException if it is not taken."""
    lines = _lines(told)
    message = EmailMessage()
    message["From"] = options.mail_from
    message["To"] = ", ".join(options.mail_to)
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    message["Subject"] = f"contimg: {lines[0][:120]}{more}"
    message.set_content("\n".join([_title(state), "", *lines, "", *render(state)]) + "\n")
    host, _, port = options.mail_host.partition(":")
    with smtplib.SMTP(host, int(port or 0), timeout=DELIVERY_S) as server:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls()
        if options.mail_user:
            server.login(options.mail_user, os.environ.get(PASSWORD, ""))
        server.send_message(message)
