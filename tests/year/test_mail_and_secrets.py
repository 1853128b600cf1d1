"""SMTP without certificate check; the mail password reaches every job: verified TLS before login;
secrets only where used.
"""

import base64
import json
import shutil
import socketserver
import ssl
import subprocess
import threading
from typing import ClassVar

import pytest

from dsa110_contimg.core.options import AlertsOptions
from support.night import Operations, raw_groups

PASSWORD, TOKEN = "pass-4711-word", "token-4712"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Make a certificate for this machine that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is absent, which makes certificates")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    command += ["-keyout", str(path), "-out", str(path.with_name("certificate.pem"))]
    subprocess.run(command, check=True, capture_output=True)
    certificate = path.with_name("certificate.pem")
    path.write_text(path.read_text() + certificate.read_text())
    return path, certificate


class Handler(socketserver.StreamRequestHandler):
    """A mail server that takes any password, over TLS or without."""

    timeout = 20

    def say(self, *lines):
        for line in lines:
            self.wfile.write(f"{line}\r\n".encode())

    def handle(self):
        server = self.server
        self.say("220 here")
        try:
            while line := self.rfile.readline():
                server.heard.append(line.decode().strip())
                verb = server.heard[-1].upper().split(" ")[0].split(":")[0]
                if verb == "EHLO":
                    tls = ["250-STARTTLS"] if server.context else []
                    self.say("250-here", *tls, "250 AUTH PLAIN")
                elif verb == "STARTTLS":
                    self.say("220 go on")
                    private = server.context.wrap_socket(self.request, server_side=True)
                    self.rfile, self.wfile = private.makefile("rb"), private.makefile("wb", 0)
                elif verb == "AUTH":
                    self.say("235 ok")
                elif verb == "DATA":
                    self.say("354 go on")
                    server.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                    self.say("250 ok")
                else:
                    self.say("250 ok")
        except (OSError, ssl.SSLError):
            return


@pytest.fixture
def mail_server(certificate):
    """Return what starts a mail server, with STARTTLS or without."""
    servers = []

    def start(tls):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.heard, server.mails, server.context = [], [], None
        if tls:
            server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.context.load_cert_chain(certificate[0])
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Telling(Operations):
    """A working folder whose ticks have something to tell, and a password for it."""

    values: ClassVar = {}

    def command(self, *arguments, **options):
        known = {k: v for k, v in self.values.items() if k in AlertsOptions.model_fields}
        # Data of years ago are late.
        return [*super().command(*arguments, **options), f"alerts={json.dumps(known)}"]

    @property
    def env(self):
        return super().env | {"CONTIMG_MAIL_PASSWORD": PASSWORD}


@pytest.fixture
def night(tmp_path):
    made = Telling.make(tmp_path / "work")
    raw_groups(made.incoming, 1)
    return made


def to(server, **more):
    address = f"localhost:{server.server_address[1]}"
    return {"mail_host": address, "mail_to": ["a@x.org"], "mail_user": "me", **more}


def said_password(server):
    words = [word for line in server.heard for word in line.split()]
    return any(PASSWORD.encode() in base64.b64decode(w + "==") for w in words if len(w) > 16)


def test_a_password_goes_to_no_server_that_cannot_prove_who_it_is(night, mail_server):
    server = mail_server(tls=True)
    night.values = to(server)
    status, output = night.call("tick")
    assert status == 0, output
    assert "STARTTLS" in server.heard and not said_password(server) and not server.mails
    assert "alerts were not told by mail" in output and "certificate" in output


def test_a_password_goes_to_a_server_that_is_trusted(night, mail_server, certificate):
    server = mail_server(tls=True)
    night.values = to(server, mail_ca=str(certificate[1]))
    status, output = night.call("tick")
    assert status == 0, output
    assert said_password(server) and len(server.mails) == 1, output


def test_a_password_goes_nowhere_unencrypted(night, mail_server):
    server = mail_server(tls=False)
    night.values = to(server)
    status, output = night.call("tick")
    assert status == 0, output
    assert not said_password(server) and not server.mails
    assert "offers no TLS: the password was not sent" in output
    night.values = to(server, mail_plain_login=True)  # to this machine, on request
    assert night.call("tick")[0] == 0
    assert said_password(server) and len(server.mails) == 1


def test_a_password_may_come_from_a_file(night, mail_server, certificate, tmp_path):
    server = mail_server(tls=True)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    night.values = to(
        server, mail_ca=str(certificate[1]), mail_password_file=str(tmp_path / "password")
    )
    assert night.call("tick", CONTIMG_MAIL_PASSWORD="another")[0] == 0
    assert said_password(server)


def test_secrets_are_only_where_they_are_used(night, tmp_path):
    """Not in the environment or command line of a job, not in any file of a run."""
    program = night.path / "bin/python"
    shell, stub = program.read_text().splitlines()
    note = f"(env; cat /proc/$PPID/cmdline) >> {tmp_path}/environments"
    program.write_text("\n".join([shell, note, stub]) + "\n")
    night.values = {"webhook": f"http://127.0.0.1:1/{TOKEN}", "mail_user": "me"}
    (tmp_path / "credentials").mkdir()
    status, output = night.call("tick", CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"))
    assert status == 0, output
    assert "alerts were not told by webhook" in output
    jobs = (tmp_path / "environments").read_text()
    assert "CONTIMG_HOLDS" in jobs
    for secret in (PASSWORD, TOKEN, "CREDENTIALS_DIRECTORY"):
        assert secret not in jobs
        assert secret not in output
        for path in night.path.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path
