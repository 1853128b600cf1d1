"""CASA's way to apply a calibration and average: the reference for `apply`'s own.

``mstransform`` with a calibration library runs in a process of its own, for CASA and
python-casacore cannot share one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..core.programs import program, run_as_program

__all__ = ["calibration_library", "command"]


def calibration_library(tables: Sequence[Path]) -> str:
    """Return CASA's description of the tables to apply, a line each."""
    lines = []
    for path in tables:
        kind = path.suffix
        # A delay has no amplitude, so it cannot change weights.
        lines.append(
            f"caltable='{path}' calwt={kind != '.kcal'} "
            f"tinterp='{'linear' if kind == '.gcal' else 'nearest'}' finterp='linear' spwmap=[0]"
        )
    return "\n".join(lines) + "\n"


def command(ms: Path, out: Path, channels: int, tables: Sequence[Path]) -> list[str]:
    """Return the command that applies tables to a set and averages so many channels."""
    return program(
        "dsa110_contimg.calibration.mstransform",
        ms=ms.absolute(),
        out=out.absolute(),
        channels=channels,
        tables=[path.absolute() for path in tables],
    )


def _main(ms: str, out: str, channels: int, tables: list[str]) -> None:
    from ..core.casa import casa_session

    with casa_session() as casa:
        library = Path("callib.txt").absolute()  # in the scratch folder of the session
        library.write_text(calibration_library([Path(path) for path in tables]), encoding="utf-8")
        casa.mstransform(
            vis=ms,
            outputvis=out,
            datacolumn="corrected",
            antenna="*&",  # cross-correlations
            docallib=True,
            callib=os.fspath(library),
            chanaverage=channels > 1,
            chanbin=channels,
            keepflags=True,
            usewtspectrum=True,
            reindex=False,
        )


if __name__ == "__main__":
    run_as_program(_main)
