"""Plots of the candidates: light curve and cut-outs by epoch, one PNG each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..core.escape import file_name, plot_text
from ..core.files import replacing
from ..core.sidecar import vouch
from ..core.tables import read_csv
from ..maps import planes as map_planes
from . import plots

__all__ = ["chosen_epochs", "plot", "plot_candidates", "plot_name"]

#: Candidates that are plotted, the least likely to be constant first; cut-outs of each.
MOST_CANDIDATES, MOST_CUTOUTS = 30, 6
#: Half the side of a cut-out, pixels.
HALF_PX = 24


def plot_name(rank: int, name: str) -> str:
    """Return the file name of a candidate's plot."""
    return f"{rank:03d}_{file_name(name)}.png"


def chosen_epochs(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the epochs to show: the faintest, the brightest, and some spread over time."""
    used = curve[curve.used] if curve.used.any() else curve
    used = used.sort_values("mjd")
    if len(used) <= MOST_CUTOUTS:
        return used
    spread = np.unique(np.linspace(0, len(used) - 1, MOST_CUTOUTS - 2).round().astype(int))
    flux = used.flux_jy.to_numpy()
    shown = sorted({int(np.nanargmin(flux)), int(np.nanargmax(flux)), *spread})
    return used.iloc[shown]


def plot(candidate: pd.Series, curve: pd.DataFrame, folder: Path, target: Path) -> None:
    """Draw one candidate.

    Parameters
    ----------
    candidate : Series
        Its row of ``candidates.csv``.
    curve : DataFrame
        Its rows of ``lightcurves.parquet``.
    folder : Path
        Folder of the light curves, which images are relative to.
    target : Path
        PNG.
    """
    from matplotlib.figure import Figure

    shown = chosen_epochs(curve)
    picture = Figure(figsize=(9, 5.2), layout="constrained")
    top, bottom = picture.subfigures(2, 1, squeeze=False, height_ratios=(1.4, 1)).flat
    axis = top.subplots()
    for part, style in ((curve[curve.used], "o"), (curve[~curve.used], "x")):
        axis.errorbar(part.mjd, 1e3 * part.flux_jy, 1e3 * part.flux_err_jy, fmt=style, ms=4,
                      color="black" if style == "o" else "0.6", lw=1)  # fmt: skip
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.axhline(1e3 * candidate.wavg_flux_jy, color="0.5", lw=0.8, ls=":")
    axis.plot(shown.mjd, 1e3 * shown.flux_jy, "o", ms=9, mfc="none", mec="tab:red")
    axis.set(xlabel="MJD (UTC)", ylabel="mJy", ylim=(min(0, axis.get_ylim()[0]), None))
    words = (
        f"eta {candidate.eta:.3g}, V {candidate.v:.3g}, log10 p {candidate.log10_false_alarm:.3g}"
    )
    if isinstance(candidate.template, str) and candidate.template:
        words += f", {candidate.template} of {candidate.template_amplitude:+.0%}"
    title = f"{candidate['rank']}  {plot_text(candidate['name'])}  ({words})"
    axis.set_title(title, fontsize=10)
    panels = np.atleast_1d(bottom.subplots(1, max(1, len(shown)), squeeze=False)[0])
    pieces = [_cutout(folder / row.image, row.ra_deg, row.dec_deg) for row in shown.itertuples()]
    known = [p / s for p, s in zip(pieces, shown.flux_scale, strict=True) if p is not None]
    high = max((float(np.nanmax(p)) for p in known), default=1.0)
    for panel, piece, row in zip(panels, pieces, shown.itertuples(), strict=True):
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"{plot_text(row.epoch)}\n{1e3 * row.flux_jy:.1f} mJy", fontsize=8)
        if piece is not None:
            panel.imshow(piece / row.flux_scale, origin="lower", cmap="gray_r", vmin=-0.05 * high,
                         vmax=high)  # fmt: skip
    with replacing(target) as temporary:
        picture.savefig(temporary, dpi=100, format="png")


def _cutout(image: Path, ra_deg: float, dec_deg: float) -> np.ndarray | None:
    """Return a piece of a mosaic; None where the image is gone or does not reach."""
    if not image.exists():
        return None
    parts = (plots.cutout(p, ra_deg, dec_deg, HALF_PX) for p in map_planes.read_planes(image))
    return next((part for part in parts if part is not None), None)


def plot_candidates(folder: Path, output: Path) -> int:
    """Draw the best candidates, a PNG each; return how many.

    Parameters
    ----------
    folder : Path
        Folder of the light curves.
    output : Path
        Folder of the plots, made anew.
    """
    ranked = read_csv(folder / "candidates.csv")
    ranked = ranked[:MOST_CANDIDATES]
    with replacing(output) as temporary:
        temporary.mkdir()
        for _, candidate in ranked.iterrows():
            curve = pd.read_parquet(
                folder / "lightcurves.parquet",
                filters=[("source_id", "==", candidate.source_id)],
            )
            name = plot_name(candidate["rank"], candidate["name"])
            plot(candidate, curve, folder, temporary / name)
    vouch("candidate_plots", output, [folder / "candidates.csv", folder / "lightcurves.parquet"])
    return len(ranked)
