"""What the flux scale of a product rests on: said in every product that is made with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.figures import AppliedCalibration, FluxAnchor

__all__ = ["anchor_of", "cards", "merged", "warning"]


def anchor_of(calibration: AppliedCalibration | None) -> FluxAnchor | None:
    """Return the anchor of what was calibrated with one solution; None where that is not known.

    Parameters
    ----------
    calibration : AppliedCalibration or None
        Of the sidecar of the calibrated data.
    """
    if calibration is None or calibration.steady is None or calibration.flux_anchor is None:
        return None
    return FluxAnchor(
        calibrators=[calibration.calibrator],
        anchors=[calibration.flux_anchor],
        steady=calibration.steady,
    )


def merged(parts: Iterable[FluxAnchor | None]) -> FluxAnchor | None:
    """Return the anchor of what was made of several products."""
    known = [part for part in parts if part]
    if not known:
        return None
    return FluxAnchor(
        calibrators=sorted({name for part in known for name in part.calibrators}),
        anchors=sorted({name for part in known for name in part.anchors}),
        steady=all(part.steady for part in known),
    )


def warning(anchor: FluxAnchor | None) -> str | None:
    """Return the words for a flux scale that rests on what may vary, or None."""
    if anchor is None or anchor.steady:
        return None
    return (
        f"the flux scale rests on {', '.join(anchor.calibrators)} "
        f"({', '.join(anchor.anchors)}), not known to be steady"
    )


def cards(anchor: FluxAnchor | None) -> dict[str, tuple[Any, str]]:
    """Return the FITS cards that say it."""
    if anchor is None:
        return {}
    return {
        "CALSRC": (", ".join(anchor.calibrators)[:40], "calibrator of the flux scale"),
        "CALFLUX": (", ".join(anchor.anchors)[:40], "what the flux scale rests on"),
        "CALSTEAD": (anchor.steady, "its flux is known to be steady"),
    }
