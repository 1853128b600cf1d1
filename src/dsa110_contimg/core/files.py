"""Files and folders that come whole or not at all; temporaries whose names tell whose they are.

What is put in its place is on the disk first, and its name is before anything goes on: a power cut
leaves the old or the new, never an empty file under a good name, nor a sidecar without its product.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from .errors import DataError, MachineError

__all__ = [
    "HOST",
    "begin_to_disk",
    "beside",
    "is_mine",
    "owner",
    "private_folder",
    "private_folders",
    "put_in_place",
    "read_lines",
    "remove",
    "replacing",
    "scratch",
    "to_disk",
    "write_text",
]

#: Name of this machine, as it is part of the names of temporaries.
HOST = re.sub(r"\W", "_", socket.gethostname())


def beside(target: str | os.PathLike, kind: Literal["tmp", "old"] = "tmp") -> Path:
    """Return a hidden name beside a product: ``.<kind>-<process>-<host>-<name>``.

    It tells whose it is, so that what killed jobs leave can be told from what others work on.
    """
    target = Path(target)
    return target.with_name(f".{kind}-{os.getpid()}-{HOST}-{target.name}")


def private_folder() -> Path:
    """Return this user's own folder among the system's temporaries, made if there is none.

    It is ``contimg-<user id>``, which nobody else can look into. Where somebody else has made that,
    or a link of that name, it is the next one, with a number.

    Raises
    ------
    MachineError
        If there is no place for temporaries that can be written to.
    """
    try:
        for path in _private_names():
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            if is_mine(path) and not path.is_symlink() and path.is_dir():
                path.chmod(0o700)
                return path
    except OSError as error:
        raise MachineError(
            f"no folder for temporary files can be made ({error.strerror or error}); set TMPDIR to "
            "one that can be written to"
        ) from None
    raise MachineError(
        f"{path}: somebody else has made all such folders; set TMPDIR to another one"
    )


def private_folders() -> list[Path]:
    """Return the folders that `private_folder` has made so far."""
    return [p for p in _private_names() if is_mine(p) and p.is_dir() and not p.is_symlink()]


def _private_names() -> list[Path]:
    place, name = Path(tempfile.gettempdir()), f"contimg-{os.getuid()}"
    return [place / name, *(place / f"{name}-{number}" for number in range(1, 10))]


def is_mine(path: Path) -> bool:
    """Tell whether a file or folder is there and belongs to this user."""
    try:
        return path.lstat().st_uid == os.getuid()
    except OSError:
        return False


@contextmanager
def scratch(name: str, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """Give a temporary folder, named as `beside` does, which is removed when the block ends.

    Parameters
    ----------
    name : str
        What the folder is for.
    folder : path, optional
        Where it is made, with its parents; in `private_folder` by default.
    """
    if folder is None:
        folder = private_folder()
    folder = Path(folder).absolute()  # the working directory may change meanwhile
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{beside(name).name}-", dir=folder, ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


def owner(path: str | os.PathLike) -> tuple[int, str] | None:
    """Return process and host that the name of a temporary tells; None for any other name."""
    match = re.match(r"\.(?:tmp|old)-(\d+)-(\w+)-", Path(path).name)
    return (int(match[1]), match[2]) if match else None


@contextmanager
def replacing(target: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside `target`; rename it onto the target when the block succeeds.

    Works for files and directories. When the block raises, the temporary is removed and what stood
    at the target stays. The temporary's name (see `beside`) ends with the target's suffixes, for
    tools that look at those.
    """
    target = Path(target).absolute()  # casacore reads a leading dot as "this folder"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(target)
    remove(temporary)
    try:
        yield temporary
        if not temporary.exists():
            raise DataError(f"{target}: the step ended without writing it")
        put_in_place({temporary: target})
    except OSError as error:
        if error.filename is None:  # a write that fails does not tell where
            error.filename = str(target)
        raise
    finally:
        remove(temporary)


def put_in_place(targets: Mapping[Path, Path]) -> None:
    """Rename finished files and folders onto their targets, all of them on the disk.

    Parameters
    ----------
    targets : mapping
        What is finished, to where it goes, on the same file system; renamed in this order.
    """
    to_disk(targets)
    for finished, target in targets.items():
        if target.is_dir() and not target.is_symlink():
            _exchange(finished, target)
            remove(finished)  # what stood there before
        else:
            os.replace(finished, target)
    for folder in {target.parent for target in targets.values()}:
        _sync(folder)


def to_disk(paths: Collection[Path]) -> None:
    """Wait until some files, and folders with all in them, are on the disk."""
    inside = (found for path in paths if path.is_dir() for found in path.rglob("*"))
    waiting = [path for path in (*paths, *inside) if not path.is_symlink()]
    # At once: the file system writes its journal for several together.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(_sync, waiting))


def begin_to_disk(path: Path) -> None:
    """Let a file or folder go to the disk while the caller works on; `to_disk` then has less to do.

    What is moved or removed meanwhile is no error.
    """

    def work() -> None:
        with suppress(FileNotFoundError):
            to_disk([path])

    threading.Thread(target=work, daemon=True).start()


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folders
            raise
    finally:
        os.close(number)


def _exchange(finished: Path, target: Path) -> None:
    """Put a folder in the place of another, which gets its name: one of them is there at any time.

    A folder cannot be renamed over a full one. Where the file system cannot exchange two names
    either (NFS), the target is absent for a moment.
    """
    import ctypes

    at_cwd, exchange = -100, 2
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28, musl 1.2.5
    names = os.fsencode(finished), os.fsencode(target)
    if rename and rename(at_cwd, names[0], at_cwd, names[1], exchange) == 0:
        return
    old = beside(target, "old")
    os.replace(target, old)
    os.replace(finished, target)
    os.replace(old, finished)


def remove(path: Path) -> None:
    """Delete a file or a folder with all in it; nothing, if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_lines(path: str | os.PathLike) -> list[str]:
    """Return the lines of a text file; names in it hold no line feeds."""
    return Path(path).read_text(encoding="utf-8").split("\n")[:-1]


def write_text(target: str | os.PathLike, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
