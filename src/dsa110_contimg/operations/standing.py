"""Which products stand: whole, with what is to be known of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..core.layout import Layout
from ..core.sidecar import sidecar_path

__all__ = ["NIGHT_PRODUCTS", "SOLUTIONS", "TILE_PRODUCTS", "lacks", "night_stands", "stand"]

#: Products of a tile that have sidecars, and make it one.
TILE_PRODUCTS = ("image.fits", "photometry.csv")


SOLUTIONS = ("kcal", "bcal", "gcal")


#: Products of a night that what comes after it rests on.
NIGHT_PRODUCTS = ("mosaic.fits", "photometry.csv")


def stand(products: Iterable[Path]) -> bool:
    """Tell whether products are all there, each with a sidecar that is not empty."""
    return all(os.path.exists(path) and _has_words(sidecar_path(path)) for path in products)


def night_stands(layout: Layout, night: str) -> bool:
    """Tell whether a night's mosaic and measurements stand."""
    return stand(layout.night(night, name) for name in NIGHT_PRODUCTS)


def lacks(layout: Layout, night: str) -> list[str]:
    """Return which of the products that others rest on a night lacks, or has empty sidecars of."""
    try:
        there = set(os.listdir(layout.night(night)))
    except OSError:
        there = set()
    names = [*(f"{name}{end}" for name in NIGHT_PRODUCTS for end in ("", ".json")), "qa.json"]
    return [
        name
        for name in names
        if name not in there
        or (name.endswith(".json") and not _has_words(layout.night(night, name)))
    ]


def _has_words(path: Path) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False
