"""Draw the pictures of README: the graph of the rules, and what comes out of the demo.

    ./contimg exec python tools/draw_pictures.py [RESULTS]

Writes ``docs/images/rules.svg`` (with Graphviz: ``dot``, ``tred``), and with a results folder of
the demo ``docs/images/demo.jpg``: the mosaic of its last night and the light curve of the first
candidate.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
IMAGES = REPO / "docs" / "images"
STYLE = """
    rankdir=LR; bgcolor=transparent; nodesep=0.18; ranksep=0.35;
    node [shape=box, style="rounded,filled", fillcolor="#e8eaf6", color="#5c6bc0",
          fontname="Helvetica,Arial,sans-serif", fontsize=11, height=0.3, margin="0.1,0.03"];
    edge [color="#7986cb", arrowsize=0.6];
"""


def rules() -> str:
    """Return the graph of the rules as SVG: what is made from what, without shortcuts."""
    sys.path[:0] = [str(REPO / "tests"), str(REPO / "src")]
    from support.dag_folder import DagFolder  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as place:
        folder = DagFolder.make(Path(place))
        folder.add_night(0)
        fields = "joint={fields: {a: '24.4 33.2 0.8'}}"
        graph = folder.snakemake("--rulegraph", "dot", "--config", fields).stdout
    names = dict(re.findall(r"(\d+)\[label = \"(\w+)\"", graph))
    edges = [(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph)]
    lines = [f"{a} -> {b};" for a, b in edges if b != "all"]
    dot = "digraph {" + STYLE + "\n".join(lines) + "}"
    for command in (["tred"], ["dot", "-Tsvg"]):
        dot = subprocess.run(command, input=dot, capture_output=True, text=True, check=True).stdout
    return re.sub(r"<!--.*?-->\n?|<\?xml.*?\?>\n|<!DOCTYPE.*?>\n", "", dot, flags=re.S)


def demo(results: Path, path: Path) -> None:
    """Draw the mosaic of the last night, and the light curve of the first candidate."""
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd
    from astropy.io import fits
    from astropy.visualization import AsinhStretch, ImageNormalize
    from astropy.wcs import WCS, FITSFixedWarning
    from scipy.ndimage import maximum_filter

    warnings.simplefilter("ignore", FITSFixedWarning)
    first = pd.read_csv(results / "lightcurves" / "candidates.csv").iloc[0]
    curves = pd.read_parquet(results / "lightcurves" / "lightcurves.parquet")
    curve = curves[curves.source_id == first.source_id].sort_values("mjd")
    mosaics = [results / "nights" / night / "mosaic.fits" for night in curve.epoch]
    figure = plt.figure(figsize=(10, 6.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    top, below = parts
    with fits.open(mosaics[-1].with_name("mosaic.view.fits")) as hdus:
        data, wcs = np.squeeze(hdus[0].data), WCS(hdus[0].header).celestial
    # Sources drawn larger than they are, or nobody sees them.
    data = np.where(
        np.isnan(data), data, np.fmax(data, maximum_filter(np.where(data > 8e-3, data, -1), 5))
    )
    norm = ImageNormalize(vmin=-3e-3, vmax=0.3, stretch=AsinhStretch(0.02))
    axes = top.subplots(subplot_kw={"projection": wcs})
    axes.imshow(data, origin="lower", cmap="inferno", norm=norm)
    axes.plot(
        *wcs.world_to_pixel_values(first.ra_deg, first.dec_deg), "o", ms=14, mec="cyan", mfc="none"
    )
    axes.set(
        xlabel="right ascension", ylabel="declination", title=f"mosaic of {curve.epoch.iloc[-1]}"
    )
    panels = below.subplots(1, 1 + len(curve), width_ratios=(2.2, *[1] * len(curve)))
    panels[0].errorbar(curve.epoch, 1e3 * curve.flux_jy, 1e3 * curve.flux_err_jy, fmt="o", c="k")
    panels[0].set(ylim=(0, None), ylabel="mJy", title=f"first candidate: {first['name']}")
    panels[0].margins(x=0.15)
    for panel, mosaic, night in zip(panels[1:], mosaics, curve.epoch, strict=True):
        with fits.open(mosaic) as hdus:
            data, wcs = np.squeeze(hdus[0].data), WCS(hdus[0].header).celestial
        x, y = np.rint(wcs.world_to_pixel_values(first.ra_deg, first.dec_deg)).astype(int)
        cutout = data[y - 20 : y + 21, x - 20 : x + 21]
        panel.imshow(cutout, origin="lower", cmap="inferno", vmin=-3e-3, vmax=curve.flux_jy.max())
        panel.set(xticks=[], yticks=[], title=night)
    figure.savefig(path, dpi=90, pil_kwargs={"quality": 85})


def main() -> None:
    """Write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "rules.svg").write_text(rules(), encoding="utf-8")
    for results in sys.argv[1:]:
        demo(Path(results), IMAGES / "demo.jpg")


if __name__ == "__main__":
    main()
