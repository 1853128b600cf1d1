"""Names and places of all products: built and parsed here, and nowhere else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError
from .times import GROUP_ID, night_of

__all__ = ["Layout", "companion", "parse_group"]


@dataclass(frozen=True)
class Layout:
    """Places of all products below one results folder.

    ``nights/<night>/groups/<id>/<id>.<kind>`` for tiles, ``nights/<night>/<name>`` for nights,
    ``lightcurves/<name>`` for the science product.
    """

    results: Path

    def night(self, night: str, name: str = "") -> Path:
        """Return a night's folder or a product of it (``mosaic.fits``, ``photometry.csv``)."""
        return self.results / "nights" / night / name

    def group(self, group: str, kind: str = "", night: str = "") -> Path:
        """Return a group's folder or a product of it.

        Parameters
        ----------
        group : str
            Group id.
        kind : str
            What follows ``<id>.``: ``ms``, ``bcal``, ``cal.ms``, ``image.fits``,
            ``photometry.csv``; ``hdf5`` gives the group file, ``group_<id>.hdf5``.
        night : str
            The group's night; derived from the id when empty.
        """
        folder = self.night(night or night_of(group), "groups") / group
        if not kind:
            return folder
        prefix = "group_" if kind.partition(".")[0] == "hdf5" else ""
        return folder / f"{prefix}{group}.{kind}"

    def log(self, *parts: str) -> Path:
        """Return the log of a job: ``logs/<step>/<night>/<group>.log``."""
        return self.results.joinpath("logs", *parts[:-1], f"{parts[-1]}.log")

    def timing(self, *parts: str) -> Path:
        """Return the record of a job's time and memory."""
        return self.results.joinpath("benchmarks", *parts[:-1], f"{parts[-1]}.tsv")

    @property
    def campaigns(self) -> Path:
        """Folder of the campaigns, each a results folder of its own."""
        return self.results / "campaigns"

    def campaign(self, name: str) -> Layout:
        """Return the places of a campaign."""
        return Layout(self.campaigns / name)

    def lightcurves(self, name: str = "") -> Path:
        """Return the light-curve folder or a product in it."""
        return self.results / "lightcurves" / name


def parse_group(path: str | os.PathLike) -> str:
    """Return the group id that a product's name holds; raise `DataError` if it holds none."""
    match = re.search(rf"(?:^|group_)({GROUP_ID})(?=\.)", Path(path).name)
    if not match:
        raise DataError(f"{path}: the name holds no group id (YYYYMMDDTHHMMSS)")
    return match[1]


def companion(image: str | os.PathLike, kind: str) -> Path:
    """Return the name of a map that belongs to an image.

    ``<id>.image.fits`` and ``pb`` give ``<id>.pb.fits``; ``mosaic.fits`` and ``rms`` give
    ``mosaic.rms.fits``.
    """
    image = Path(image)
    stem = image.name.removesuffix(".fits").removesuffix(".image")
    return image.with_name(f"{stem}.{kind}.fits")
