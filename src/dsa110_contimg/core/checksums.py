"""Checksums of products: files, and folders as one.

SHA-256, for processors have instructions for it: of what the standard library has, nothing is
faster on these.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["describe", "files_in", "of_file", "of_folder", "size_and_sum"]

#: In these casacore notes who has a table open, and Snakemake when a folder was made.
NO_CONTENT = ("table.lock", ".snakemake_timestamp")


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that count, in the order of their names."""
    found = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.name not in NO_CONTENT)


def of_folder(folder: Path) -> tuple[int, str]:
    """Return size in bytes and checksum of a folder: of its files' names, sizes and checksums."""
    total, digest = 0, hashlib.sha256()
    for path in files_in(folder):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0{of_file(path)}\n".encode())
        total += size
    return total, digest.hexdigest()


def size_and_sum(path: Path) -> tuple[int, str]:
    """Return size in bytes and checksum of a file or folder."""
    return of_folder(path) if path.is_dir() else (path.stat().st_size, of_file(path))


def describe(paths: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """Return path (relative to a folder), size and checksum of files and folders."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = pool.map(size_and_sum, paths)
    return [
        {"path": path.relative_to(folder).as_posix(), "size_bytes": size, "sha256": digest}
        for path, (size, digest) in zip(paths, sums, strict=True)
    ]
