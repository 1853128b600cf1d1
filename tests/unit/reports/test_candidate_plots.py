import numpy as np
import pandas as pd
from astropy.io import fits
from PIL import Image

from dsa110_contimg.reports import candidate_plots
from support.nightly_tables import night
from support.steps import run_step
from support.synthetic_images import header


def test_each_candidate_has_a_plot_with_its_epochs(tmp_path):
    paths = [night(tmp_path, day) for day in range(10)]
    for path in paths:  # a mosaic for each night, one of them gone
        head = header((200, 200), (12.0, 33.0), 30.0)
        fits.writeto(path.with_name("mosaic.fits"), np.ones((1, 1, 200, 200), np.float32), head)
    paths[4].with_name("mosaic.fits").unlink()
    curves = tmp_path / "lightcurves"
    assert run_step("lightcurves", str(curves), *map(str, paths)) == 0
    ranked = pd.read_csv(curves / "candidates.csv")
    assert ranked.source_id.tolist() == ["S0003"]
    out = curves / "candidates"
    for _ in range(2):  # a second time in the place of the first
        assert run_step("candidate_plots", str(curves), str(out)) == 0
    (plot,) = out.iterdir()
    assert plot.name == f"001_{ranked['name'][0]}.png"
    with Image.open(plot) as picture:
        assert picture.size == (900, 520)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    table = pd.read_parquet(curves / "lightcurves.parquet")
    shown = candidate_plots.chosen_epochs(table[table.source_id == "S0003"])
    assert (
        "night0006" in set(shown.epoch)
        and 3 <= len(shown) <= 6
        and shown.mjd.is_monotonic_increasing
    )


def test_no_candidates_no_plots(tmp_path):
    paths = [night(tmp_path, day) for day in range(3)]
    curves = tmp_path / "lightcurves"
    assert run_step("lightcurves", str(curves), *map(str, paths)) == 0
    out = curves / "candidates"
    assert run_step("candidate_plots", str(curves), str(out)) == 0
    assert list(out.iterdir()) == []
