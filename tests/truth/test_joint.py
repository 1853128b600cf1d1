"""A field imaged from three tiles together, by the real imager, against the sky that went in."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from dsa110_contimg.core.layout import companion
from dsa110_contimg.core.options import PhotometryOptions
from dsa110_contimg.photometry import images as photometry_images
from dsa110_contimg.photometry import measure as photometry
from dsa110_contimg.telescope import dsa110
from support import imaging_data
from support.steps import run_step

GROUPS = ("20260128T213051", "20260128T213600", "20260128T214109")


def random_sky(n, reach, low, high):
    rng = np.random.default_rng(2)
    places = []
    while len(places) < n:
        place = rng.uniform(-reach, reach, 2)
        if all(np.hypot(*(place - other)) > 0.12 for other in places):
            places.append(place)
    return imaging_data.offsets_to_sky(*np.array(places).T, 10 ** rng.uniform(low, high, n))


def tiles(folder, sky, n_channels, n_times):
    """Three neighbouring tiles through their drifting beams; of the images only the beam counts."""
    sets, images, middle = [], [], imaging_data.START_MJD
    with pytest.MonkeyPatch.context() as patch:
        for number, group in enumerate(GROUPS):
            start = middle + (number - 1) * dsa110.TILE_S / 86400
            patch.setattr(imaging_data, "START_MJD", start)
            sets.append(folder / f"{group}.cal.ms")
            size = {"n_antennas": 96, "n_channels": n_channels, "n_times": n_times}
            imaging_data.write_tile(sets[-1], sky, noise=True, seed=number + 1, **size)
            options = ("--size-px", "1200", "--cell-arcsec", "12", "--niter", "0")
            command = ["image", sets[-1], folder / group, *options]
            assert run_step(*command) == 0
            images.append(folder / f"{group}.image.fits")
    return sets, images


def joint(output, sets, images, radius, *options):
    command = ["joint", output, "--sets", *sets, "--images", *images]
    command += ["--field", *imaging_data.tile_centre(), radius, "--threads", "2", *options]
    assert run_step(*command) == 0
    with fits.open(companion(output, "rms")) as hdus:
        noise = hdus[0].data.squeeze()
    record = json.loads(output.with_name(output.name + ".json").read_text())
    return noise[tuple(n // 2 for n in noise.shape)], record


def measured(image, sky, limit=0.0):
    table = pd.DataFrame(
        {
            "name": [f"s{k}" for k in range(len(sky.flux_jy))],
            "ra_deg": sky.ra_deg,
            "dec_deg": sky.dec_deg,
            "flux_jy": sky.flux_jy,
            "alpha": 0.0,
        }
    )
    with photometry_images.open_planes(image) as planes:
        return photometry.measure(planes[0], table, PhotometryOptions(pb_limit=limit))


def ratios(output, sky, snr):
    table = measured(output, sky)
    good = table[(table.snr > snr) & (table["flags"] == "")]
    shift = 3600 * np.hypot(good.shift_ra_deg, good.shift_dec_deg)
    assert shift.median() < 3600 * fits.getheader(output)["BMAJ"] / 20
    return (good.flux_jy / good.catalog_flux_jy).to_numpy()


def test_a_faint_field_is_as_deep_as_its_weights_predict(tmp_path):
    """1 / sum(P_t^2 / sigma^2) at the centre; fluxes, headers and maps as those of a mosaic."""
    sky = random_sky(6, 0.35, -1.9, -1.5)  # 12 to 30 mJy
    sets, images = tiles(tmp_path, sky, 2, 2)
    before = [sorted(p.stat().st_mtime_ns for p in s.rglob("*")) for s in sets]
    options = ("--margin-deg", "0.1", "--cycles", "1", "--cell-arcsec", "5")
    output = tmp_path / "joint_field.fits"
    noise, record = joint(output, sets, images, 0.5, *options)
    found = record["qa"]["tiles"]
    assert [t["tile"] for t in found] == list(GROUPS)
    beams = np.array([t["beam"] for t in found])
    assert beams[1] > 0.9 and 0.4 < beams[0] < 0.7
    alone = tmp_path / "joint_alone.fits"
    single, _ = joint(alone, sets[1:2], images[1:2], 0.5, *options)
    assert noise / single == pytest.approx(beams[1] / np.sqrt((beams**2).sum()), rel=0.1)
    ratio = ratios(output, sky, 20)
    assert len(ratio) >= 4 and np.median(ratio) == pytest.approx(1, abs=0.02)
    head = fits.getheader(output)
    assert (head["NTILES"], head["BUNIT"], head["EPOCHID"]) == (3, "Jy/beam", "2026-01-28")
    with fits.open(companion(output, "weight")) as hdus:
        assert [h.header["BTYPE"] for h in hdus] == ["Weight", "Time"]
    assert not list(tmp_path.glob(".tmp-*"))
    assert before == [sorted(p.stat().st_mtime_ns for p in s.rglob("*")) for s in sets]


@pytest.mark.slow
def test_a_bright_field_keeps_its_fluxes_and_no_sidelobes_of_unequal_beams(tmp_path):
    """24 sources of 0.1 to 1 Jy, seen with beams of 0.5 to 1: two further cycles take them out."""
    sky = random_sky(24, 1.3, -1.0, 0)
    sets, images = tiles(tmp_path, sky, 6, 4)
    once, _ = joint(tmp_path / "joint_once.fits", sets, images, 0.8, "--cycles", "1")
    output = tmp_path / "joint_field.fits"
    noise, _ = joint(output, sets, images, 0.8)
    assert noise < 0.5 * once
    ratio = ratios(output, sky, 30)
    assert len(ratio) >= 8 and np.median(ratio) == pytest.approx(1, abs=0.02)
    assert ratio == pytest.approx(np.ones(len(ratio)), abs=0.04)
