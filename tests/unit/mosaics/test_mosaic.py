import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_contimg.core.layout import companion
from dsa110_contimg.core.options import MosaicOptions
from dsa110_contimg.maps import beams as map_beams
from dsa110_contimg.mosaics import coadd as coadding
from dsa110_contimg.mosaics import sections as mosaic_sections
from dsa110_contimg.mosaics import tiles as mosaic_tiles
from support.mosaic_tiles import BEAM, CELL, DEC, SIZE, STEP, draw, run, sky, write_tiles
from support.steps import run_step
from support.synthetic_images import (
    add_sources,
    beam_matrix,
    header,
    smooth_noise,
)


def photometry(folder, image, table):
    """Flux ratio and offsets (arcsec) of the sources of `table` in the first image of a mosaic."""
    from dsa110_contimg.photometry.fit import forced_fit
    from dsa110_contimg.photometry.images import open_planes

    with open_planes(image) as planes:
        fit = forced_fit(planes[0], table.ra_deg.to_numpy(), table.dec_deg.to_numpy())
    return fit, fit.flux / table.flux_jy.to_numpy(), 3600 * fit.shift_deg


def test_flux_position_and_noise_across_ra_zero(tmp_path):
    rng = np.random.default_rng(1)
    ra = 358.5 + STEP * np.arange(5)
    table = sky(358.5, 5, rng)
    paths = write_tiles(tmp_path, ra, table, rng, rms=[1e-3, 1e-3, 3e-3, 1e-3, 1e-3])
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert record["verdict"] == "pass" and record["qa"]["n_tiles"] == 5
    (image, head), (weight, _) = layers["image"][0], layers["weight"][0]
    assert len(layers["image"]) == 1 and image.shape[1] < 1200  # one strip, not the whole circle
    fit, ratio, shift = photometry(tmp_path, tmp_path / "mosaic.fits", table)
    good = fit.coverage > 0.99
    assert good.sum() > 50
    assert np.median(ratio[good]) == pytest.approx(1, abs=0.005)
    pull = (fit.flux - table.flux_jy)[good] / fit.error[good]
    assert abs(pull.mean()) < 0.4 and pull.std() < 1.3
    bright = good & (fit.flux / fit.error > 50)
    assert np.abs(np.median(shift[bright], axis=0)).max() < 1 / 20 * BEAM[1] / 3
    assert np.hypot(*shift[bright].T).max() < BEAM[0] / 20
    # Noise falls as the weights predict, everywhere and tile by tile.
    empty = draw_model(layers, table, image.shape, head) < 1e-5
    pulls = image * np.sqrt(weight)
    assert 1.4826 * np.median(np.abs(pulls[empty & np.isfinite(pulls)])) == pytest.approx(
        1, abs=0.1
    )
    for column in np.array_split(np.arange(image.shape[1]), 4):
        part = (pulls[:, column])[empty[:, column] & np.isfinite(pulls[:, column])]
        assert 1.4826 * np.median(np.abs(part)) == pytest.approx(1, abs=0.1)
    assert record["qa"]["rms_over_predicted"] == pytest.approx(1, abs=0.1)
    # Overlapping tiles differ by their noise.
    scatter = [t["overlap_scatter"] for t in record["qa"]["tiles"] if t["overlap_scatter"]]
    assert len(scatter) == 4 and scatter == pytest.approx([1] * 4, abs=0.1)
    # The noisy tile counts a ninth.
    shares = [t["weight"] for t in record["qa"]["tiles"]]
    assert shares[2] / shares[1] == pytest.approx(1 / 9, rel=0.02)


def draw_model(layers, table, shape, head):
    x, y = WCS(head, fix=False).celestial.all_world2pix(table.ra_deg, table.dec_deg, 0)
    return add_sources(np.zeros(shape), x, y, np.ones(len(x)), beam_matrix(BEAM, CELL))


def test_rms_map_time_map_and_headers(tmp_path):
    rng = np.random.default_rng(2)
    ra = 30 + STEP * np.arange(3)
    table = sky(30, 3, rng, n=10)
    paths = write_tiles(tmp_path, ra, table, rng)
    layers, _ = run(tmp_path / "mosaic_02.fits", paths, "--pb-limit", "0.3")
    (image, head), (rms, rms_head) = layers["image"][0], layers["rms"][0]
    (weight, weight_head), (times, _) = layers["weight"]
    assert np.array_equal(np.isfinite(image), weight > 0)
    assert np.nanmax(np.abs(rms * np.sqrt(weight) - 1)[weight > 0]) < 1e-5
    assert (head["CTYPE1"], head["CTYPE3"], head["CTYPE4"]) == ("RA---SIN", "FREQ", "STOKES")
    assert head["EPOCHID"] == "2025-11-21T02" and head["NTILES"] == 3
    assert head["TELESCOP"] == "DSA-110" and head["BUNIT"] == "Jy/beam"
    assert [head[k] * 3600 for k in ("BMAJ", "BMIN")] == pytest.approx(BEAM[:2])
    assert head["MJD-BEG"] == pytest.approx(61000.0983) and head["RESTFRQ"] == 1.4e9
    assert head["MJD-BEG"] < head["MJD-AVG"] < head["MJD-END"]
    assert (rms_head["BTYPE"], weight_head["BUNIT"]) == ("Noise", "Jy-2")
    assert (tmp_path / "mosaic_02.fits").read_bytes()[:6] == b"SIMPLE"
    wcs = WCS(head, fix=False).celestial
    for i, centre in enumerate([28.9, 30 + STEP, 33.7]):  # first, middle, last tile alone or evenly
        x, y = (round(float(v)) for v in wcs.all_world2pix(centre, DEC, 0))
        expected = 61000.1 + i * 309.24 / 86400
        assert head["MJD-AVG"] + float(times[y, x]) == pytest.approx(expected, abs=0.0006)
    # Cut at the limit: 0.95 exp(-4 ln2 r^2/2.7^2) = 0.3 at 1.741 deg.
    x, y = wcs.all_world2pix([30, 30 - 0.95 / np.cos(np.deg2rad(DEC))], [DEC - 1.70, DEC - 1.55], 0)
    assert y.min() > 0
    assert weight[round(y[0]), round(x[0])] > 0 and weight[round(y[1]), round(x[1])] == 0


def test_tiles_of_different_beams(tmp_path):
    rng = np.random.default_rng(3)
    ra = 30 + STEP * np.arange(3) * 0.6
    table = sky(30, 2, rng, n=24, flux=(0.2, 0.5))
    beams = [(180.0, 130.0, 30.0), (190.0, 128.0, 10.0), (170.0, 140.0, 50.0)]
    layers, record = run(
        tmp_path / "mosaic.fits", write_tiles(tmp_path, ra, table, rng, beams=beams)
    )
    head = layers["image"][0][1]
    common = map_beams._covariance([head[k] for k in ("BMAJ", "BMIN", "BPA")])
    for beam in beams:
        least = np.linalg.eigvalsh(
            common - map_beams._covariance(np.array(beam) / [3600, 3600, 1])
        )[0]
        assert least >= 0
    assert record["qa"]["beam_major_arcsec"] < 205
    fit, ratio, _ = photometry(tmp_path, tmp_path / "mosaic.fits", table)
    good = (fit.coverage > 0.99) & (fit.flux / fit.error > 50)
    assert good.sum() > 15
    assert np.median(ratio[good]) == pytest.approx(1, abs=0.01)
    assert ratio[good] == pytest.approx(np.ones(good.sum()), abs=0.06)
    assert record["qa"]["rms_over_predicted"] == pytest.approx(1, abs=0.1)


def test_common_beam_holds_all_and_is_the_smallest():
    one, other = (2.0, 1.0, 20.0), (2.0, 1.0, 110.0)
    assert map_beams.common_beam([one, other])[:2] == pytest.approx((2, 2), rel=1e-4)
    assert map_beams.common_beam([one, (2.1, 1.2, 20.0)]) == pytest.approx(
        (2.1, 1.2, 20.0), rel=1e-4
    )
    rng = np.random.default_rng(1)
    for _ in range(5):
        beams = [(rng.uniform(1.5, 2), rng.uniform(1, 1.5), rng.uniform(-90, 90)) for _ in range(6)]
        common = map_beams.common_beam(beams)
        for beam in beams:
            spare = map_beams._covariance(common) - map_beams._covariance(beam)
            assert np.linalg.eigvalsh(spare)[0] >= 0
        # By brute force: of all shapes on a grid, the smallest that holds them.
        least = np.inf
        for ratio in np.linspace(1, 2, 41):
            for angle in np.arange(-90, 90, 3):
                inverse = np.linalg.inv(map_beams._covariance((ratio, 1.0, angle)))
                scale = max(
                    np.linalg.eigvals(inverse @ map_beams._covariance(b)).max() for b in beams
                )
                least = min(least, scale * ratio)
        assert common[0] * common[1] <= least * (1 + 1e-6)
        assert common[0] * common[1] == pytest.approx(least, rel=0.01)


@pytest.mark.parametrize("target", [(200.0, 150.0, 40.0), (180.5, 130.2, 30.0)])
def test_convolution_against_the_analytic_beam(target):
    """A Gaussian convolved to another beam is that beam, with the same peak."""
    head = header((SIZE, SIZE), (30.0, DEC), CELL, BEAM)
    table = pd.DataFrame({"ra_deg": [30.1], "dec_deg": [33.2], "flux_jy": [2.0]})
    found = map_beams.convolve(
        draw(head, table, BEAM),
        CELL / 3600,
        *(np.array(b) / [3600, 3600, 1] for b in (BEAM, target)),
    )
    assert found == pytest.approx(draw(head, table, target), abs=2e-5)


def test_failed_tile_is_left_out_and_listed(tmp_path):
    rng = np.random.default_rng(4)
    ra = 30 + STEP * np.arange(3)
    table = sky(30, 3, rng, n=12)
    paths = write_tiles(tmp_path, ra, table, rng, verdicts={1: "fail"})
    with fits.open(paths[1], mode="update") as hdus:
        hdus[0].data[:] = 100.0
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert record["verdict"] == "pass" and record["qa"]["n_tiles"] == 2
    assert [e["tile"] for e in record["qa"]["left_out"]] == [paths[1].name[:15]]
    assert "broken" in record["qa"]["left_out"][0]["reason"]
    image, head = layers["image"][0]
    assert head["NLEFTOUT"] == 1 and np.nanmax(image) < 1


def test_one_tile_on_an_unsteady_calibrator_marks_the_mosaic(tmp_path):
    rng = np.random.default_rng(4)
    paths = write_tiles(tmp_path, [30, 31.3], sky(30, 2, rng), rng)
    anchors = (("3C48", "Perley-Butler 2017", True), ("2253+161", "VLA calibrator list", False))
    for path, (name, anchor, steady) in zip(paths, anchors, strict=True):
        sidecar = path.with_name(path.name + ".json")
        record = json.loads(sidecar.read_text())
        said = {"calibrators": [name], "anchors": [anchor], "steady": steady}
        sidecar.write_text(json.dumps(record | {"qa": record["qa"] | {"flux_anchor": said}}))
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert layers["image"][0][1]["CALSTEAD"] is False
    assert record["qa"]["flux_anchor"]["calibrators"] == ["2253+161", "3C48"]
    assert record["verdict"] == "warn" and "2253+161" in record["reasons"][0]


def test_every_tile_failed(tmp_path):
    rng = np.random.default_rng(4)
    table = sky(30, 2, rng, n=4)
    paths = write_tiles(tmp_path, [30, 31.3], table, rng, verdicts={0: "fail", 1: "fail"})
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert record["verdict"] == "fail" and len(record["qa"]["left_out"]) == 2
    assert np.isnan(layers["image"][0][0]).all() and not layers["weight"][0][0].any()
    assert len(layers["weight"]) == 2 * len(layers["image"])


@pytest.mark.parametrize("blank", [(0,), (0, 1)])
def test_a_section_without_a_pixel_is_left_out(tmp_path, blank):
    rng = np.random.default_rng(4)
    paths = write_tiles(tmp_path, [30, 60], sky(30, 1, rng, n=4), rng)
    for i in blank:
        with fits.open(companion(paths[i], "rms"), mode="update") as hdus:
            hdus[0].data[:] = np.nan
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert record["verdict"] == ("fail" if len(blank) == 2 else "pass")
    assert record["qa"]["n_images"] == 2 - len(blank)
    assert [e["reason"] for e in record["qa"]["left_out"]] == ["no pixel of it has weight"] * len(
        blank
    )
    assert len(layers["image"]) == 1 and len(layers["weight"]) == 2


def test_blank_pixels_stay_local(tmp_path):
    """NaN in one tile (image, beam or noise) does not spoil what other tiles see there."""
    rng = np.random.default_rng(5)
    table = sky(30, 2, rng, n=12)
    paths = write_tiles(tmp_path, [30, 30.3], table, rng)
    for kind, rows in (
        ("image", slice(100, 130)),
        ("rms", slice(200, 230)),
        ("pb", slice(300, 320)),
    ):
        path = paths[0] if kind == "image" else companion(paths[0], kind)
        with fits.open(path, mode="update") as hdus:
            hdus[0].data[..., rows, 150:250] = np.nan
    layers, record = run(tmp_path / "mosaic.fits", paths)
    (image, _), (weight, _) = layers["image"][0], layers["weight"][0]
    inside = np.s_[60:-60, 120:-120]
    assert np.isfinite(image[inside]).all() and (weight[inside] > 0).all()
    assert record["qa"]["rms_over_predicted"] == pytest.approx(1, abs=0.1)
    clean, _ = run(tmp_path / "again" / "mosaic.fits", paths[1:])
    assert np.nanmax(np.abs(clean["image"][0][0])) == pytest.approx(
        np.nanmax(np.abs(image)), rel=0.1
    )


def test_strips_and_sections(tmp_path):
    """A jump in right ascension or declination gives further images; long strips are cut."""
    rng = np.random.default_rng(6)
    options = MosaicOptions()
    near, far = [359.0, 0.3], [40.0, 41.3]
    table = pd.concat([sky(359, 2, rng, n=8), sky(40, 2, rng, n=8)])
    paths = write_tiles(tmp_path, near + far, table, rng)
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert record["qa"]["n_images"] == 2 and len(layers["weight"]) == 4
    ra = sorted(h["CRVAL1"] for _, h in layers["image"])
    assert ra == pytest.approx([40.65, 359.65], abs=0.1)
    tiles = [mosaic_tiles.open_tile(p, options.pb_limit) for p in paths]
    long = [fake(tiles[0], 300 + STEP * i, 33.0) for i in range(60)]  # 76 deg, through RA 0
    parts = mosaic_sections.sections(long[30:] + long[:30])
    assert sum(len(p.own) for p in parts) == 60
    assert [len(p.own) for p in parts] == [20, 20, 20]
    low, high = zip(*[p.ra_range_deg for p in parts], strict=True)
    assert (
        np.isinf(low[0])
        and np.isinf(high[-1])
        and high[0] == pytest.approx(10 * STEP + 0.24, abs=0.01)
    )
    for part in parts:
        _, shape = mosaic_sections.grid(part)
        assert shape[1] * CELL / 3600 < 26.5 and shape[0] < 700
    ring = [fake(tiles[0], 360 / 280 * i, 33.0) for i in range(280)]
    assert max(len(p.own) for p in mosaic_sections.sections(ring)) <= 23
    assert (
        len(mosaic_sections.sections([fake(tiles[0], 30, d) for d in (16.1, 33, 33.5, 54.6)])) == 3
    )


def fake(tile, ra, dec):
    """The same tile elsewhere."""
    import dataclasses

    wcs = tile.wcs.deepcopy()
    wcs.wcs.crval = ra % 360, dec
    x, y = tile.wcs.all_world2pix(tile.ra_deg, tile.dec_deg, 0)
    new = wcs.all_pix2world(x, y, 0)
    return dataclasses.replace(tile, wcs=wcs, ra_deg=new[0], dec_deg=new[1])


def test_result_does_not_depend_on_blocks_or_order(tmp_path, monkeypatch):
    rng = np.random.default_rng(7)
    table = sky(30, 2, rng, n=8)
    paths = write_tiles(tmp_path, [30, 31.3], table, rng)
    whole, _ = run(tmp_path / "a" / "mosaic.fits", paths)
    monkeypatch.setattr(coadding, "BLOCK_PX", 20_000)
    blocks, _ = run(tmp_path / "b" / "mosaic.fits", paths[::-1])
    for kind in whole:
        one, other = whole[kind][0][0], blocks[kind][0][0]
        # A pixel whose beam is at the limit to rounding may fall on either side of it.
        both = np.isfinite(one) & np.isfinite(other) & (one != 0) & (other != 0)
        assert both.sum() > 0.6 * one.size
        assert np.count_nonzero((np.nan_to_num(one) != 0) ^ (np.nan_to_num(other) != 0)) < 20
        noise = whole["rms"][0][0][both] if kind == "image" else np.abs(one[both])
        difference = np.abs(other - one)[both] / noise
        assert np.quantile(difference, 0.99) < 1e-4 and difference.max() < 5e-3


def test_a_tile_with_a_far_larger_beam_is_left_out(tmp_path):
    rng = np.random.default_rng(8)
    beams = [BEAM, BEAM, (500.0, 300.0, 0.0)]
    paths = write_tiles(tmp_path, [30, 31.3, 32.6], sky(30, 3, rng, n=6), rng, beams=beams)
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert (
        record["qa"]["n_left_out"] == 1
        and "twice the median" in record["qa"]["left_out"][0]["reason"]
    )
    assert layers["image"][0][1]["BMAJ"] * 3600 == pytest.approx(BEAM[0])


def test_missing_sidecar_is_an_error(tmp_path, capsys):
    rng = np.random.default_rng(9)
    paths = write_tiles(tmp_path, [30], sky(30, 1, rng, n=2), rng)
    paths[0].with_name(paths[0].name + ".json").unlink()
    assert run_step("mosaic", str(tmp_path / "mosaic.fits"), str(paths[0])) == 3
    assert "sidecar is missing" in capsys.readouterr().err
    assert not (tmp_path / "mosaic.fits").exists()


def sin_wcs(centre, shape, cell=CELL):
    """Grid of a given shape (rows, columns) about a direction."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---SIN", "DEC--SIN"], centre
    wcs.wcs.cdelt = [-cell / 3600, cell / 3600]
    wcs.wcs.crpix = [(n + 1) / 2 for n in shape[::-1]]
    return wcs


def test_a_block_of_one_row_is_like_the_row_of_a_larger_one():
    rng = np.random.default_rng(11)
    shape = (150, 160)
    tile, grid = sin_wcs((30.0, 33.0), shape), sin_wcs((30.2, 33.1), shape)
    image = smooth_noise(shape, 1.0, 3.5, rng).astype(np.float32)
    content = image, np.ones_like(image), np.ones_like(image), None
    one = coadding._reproject(content, tile, grid, slice(70, 71), slice(0, 160))
    many = coadding._reproject(content, tile, grid, slice(40, 100), slice(0, 160))
    for single, plane in zip(one, many, strict=True):
        assert np.abs(single[0] - 1.0 * plane[30]).max() < 1e-5
