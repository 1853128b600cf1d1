"""Secrets: what is only for those who need it.

They come as environment variables or as files of systemd (``LoadCredential=``), and would go from
there to every job, and from a job's environment to wherever that is shown. So they are taken out of
the environment before anything else is done.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ConfigError

__all__ = ["MAIL_PASSWORD", "WEBHOOK", "is_given", "secret", "take"]

#: Password of ``alerts.mail_user``, and the address that replaces ``alerts.webhook``: the name of
#: the environment variable; that of the credential is the same without ``CONTIMG_``, in lower case.
MAIL_PASSWORD = "CONTIMG_MAIL_PASSWORD"
WEBHOOK = "CONTIMG_WEBHOOK"

#: Folder with credentials, as systemd names it.
_FOLDER = "CREDENTIALS_DIRECTORY"

_taken: dict[str, str] = {}


def take() -> None:
    """Take all secrets out of this process's environment; `secret` knows them from then on."""
    for name in (MAIL_PASSWORD, WEBHOOK, _FOLDER):
        if (value := os.environ.pop(name, None)) is not None:
            _taken[name] = value


def is_given(name: str) -> bool:
    """Tell whether there is a secret, be it one that cannot be read."""
    try:
        return secret(name) is not None
    except ConfigError:
        return True


def secret(name: str, file: Path | None = None) -> str | None:
    """Return a secret; None if there is none.

    Parameters
    ----------
    name : str
        Of its environment variable.
    file : path, optional
        Where the configuration says it is.

    Raises
    ------
    ConfigError
        If a file that should hold it cannot be read.
    """
    if file is not None:
        return _read(file)
    if _FOLDER in _taken:
        credential = Path(_taken[_FOLDER], name.removeprefix("CONTIMG_").lower())
        if os.path.lexists(credential):
            return _read(credential)
    return _taken.get(name)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
