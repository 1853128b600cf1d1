"""What the flux scale of a product rests on: said in every product that is made with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["anchor_of", "cards", "merged", "warning"]


def anchor_of(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the anchor of what was calibrated with one solution; None where that is not known.

    Parameters
    ----------
    calibration : mapping or None
        ``calibrator``, ``flux_anchor`` and ``steady``, as `apply` records them.

    Returns
    -------
    dict or None
        ``calibrators`` and ``anchors`` (lists of names), ``steady``: whether all of these
        calibrators are known to be constant.
    """
    if not calibration or "steady" not in calibration:
        return None
    return {
        "calibrators": [calibration["calibrator"]],
        "anchors": [calibration["flux_anchor"]],
        "steady": bool(calibration["steady"]),
    }


def merged(parts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the anchor of what was made of several products."""
    known = [part for part in parts if part]
    if not known:
        return None
    return {
        key: sorted({name for part in known for name in part[key]})
        for key in ("calibrators", "anchors")
    } | {"steady": all(part["steady"] for part in known)}


def warning(anchor: Mapping[str, Any] | None) -> str | None:
    """Return the words for a flux scale that rests on what may vary, or None."""
    if anchor is None or anchor["steady"]:
        return None
    return (
        f"the flux scale rests on {', '.join(anchor['calibrators'])} "
        f"({', '.join(anchor['anchors'])}), not known to be steady"
    )


def cards(anchor: Mapping[str, Any] | None) -> dict[str, tuple[Any, str]]:
    """Return the FITS cards that say it."""
    if anchor is None:
        return {}
    return {
        "CALSRC": (", ".join(anchor["calibrators"])[:40], "calibrator of the flux scale"),
        "CALFLUX": (", ".join(anchor["anchors"])[:40], "what the flux scale rests on"),
        "CALSTEAD": (anchor["steady"], "its flux is known to be steady"),
    }
