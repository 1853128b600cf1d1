"""Which antenna is the phase reference of a solution."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import DataError

__all__ = ["choose_reference"]

#: Outriggers that serve as reference, best first, then one of the core.
REFERENCE_STATIONS = tuple(
    f"DSA-{n}" for n in (104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 103)
)
#: An antenna with more than this flagged is no reference.
REFERENCE_MAX_FLAGGED = 0.3


def choose_reference(antennas: Mapping[str, float]) -> list[str]:
    """Return healthy antennas in order of preference as a phase reference.

    Outriggers come first: the longest baselines suffer least from confusing extended emission.

    Parameters
    ----------
    antennas : mapping
        Antenna name to its flagged fraction.

    Raises
    ------
    DataError
        If none is healthy.
    """
    healthy = {n: f for n, f in antennas.items() if f < REFERENCE_MAX_FLAGGED}
    preferred = [n for n in REFERENCE_STATIONS if n in healthy]
    rest = sorted((n for n in healthy if n not in preferred), key=lambda n: (healthy[n], n))
    if not healthy:
        raise DataError(
            f"every antenna has more than {REFERENCE_MAX_FLAGGED:.0%} of its data flagged"
        )
    # Within the preferred, one with far more flags than the best gives way.
    best = min(healthy.values())
    preferred.sort(key=lambda n: healthy[n] > best + 0.1)
    return preferred + rest
