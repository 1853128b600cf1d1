"""The simulator against the field's tools alone: pyuvdata phases and writes, WSClean images.

Nothing of this package stands between the simulated files and the picture, so a sign, a frame or a
beam that the simulator and the pipeline got wrong alike would show here.
"""

import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_contimg.simulation import correlator
from dsa110_contimg.simulation import season as simulation
from dsa110_contimg.simulation.correlator import Instrument, Source
from dsa110_contimg.telescope.beam import TileBeam

pytestmark = pytest.mark.skipif(shutil.which("wsclean") is None, reason="WSClean is not installed")


def meridian_phased(files, dec_app_deg):
    """Read a group with pyuvdata; say of each integration where it is really phased to."""
    from pyuvdata import UVData

    unchecked = {"run_check": False, "check_extra": False, "run_check_acceptability": False}
    parts = []
    for file in files:
        part = UVData()
        part.read(
            str(file), file_type="uvh5", **unchecked, strict_uvw_antpos_check=False,
            check_autos=False, fix_autos=False,
        )  # fmt: skip
        part.uvw_array = part.uvw_array.astype(float)
        part.channel_width = np.abs(part.channel_width)
        parts.append(part)
    uvd = parts[0].fast_concat(parts[1:], "freq", **unchecked)
    for time in np.unique(uvd.time_array):
        ra, dec = correlator.meridian_icrs(dec_app_deg, time - 2400000.5)
        number = uvd._add_phase_center(
            f"meridian {time}",
            cat_type="sidereal",
            cat_lon=np.deg2rad(float(ra)),
            cat_lat=np.deg2rad(float(dec)),
            cat_frame="icrs",
        )
        uvd.phase_center_id_array[uvd.time_array == time] = number
    uvd._clear_unused_phase_centers()
    uvd._set_app_coords_helper()
    uvd.vis_units = "Jy"
    uvd.reorder_freqs(channel_order="freq", run_check=False)
    uvd.conjugate_bls("ant1<ant2")
    return uvd


@pytest.mark.parametrize(
    ("ra", "dec", "east", "north"),
    [(24.42, 33.16, 0.0, 0.0), (24.42, 33.16, 0.9, 0.7), (24.42, 33.16, -0.6, -0.8),
     (0.05, -10.0, -0.8, 0.5), (128.7, 71.0, 0.7, -0.6)],
)  # fmt: skip
def test_a_source_appears_where_and_as_bright_as_it_should(
    tmp_path, monkeypatch, ra, dec, east, north
):
    """In a naturally weighted dirty image its peak is the mean of its visibilities."""
    from pyuvdata.utils import phasing

    # By default pyuvdata takes the field's position angle from points 0.5 deg away, which is wrong
    # by 8e-5 rad at declination 71.
    exact = partial(phasing.calc_frame_pos_angle, offset_pos=1e-4)
    monkeypatch.setattr(phasing, "calc_frame_pos_angle", exact)
    options = simulation.SimulationOptions(
        calibrator="", ra_deg=ra, dec_deg=dec, antennas=48, channels=1, integrations=12, sources=0,
        variables=False, noise=False, gains=False, rfi=False, dead_antennas=0,
    )  # fmt: skip
    instrument = Instrument.choose(48, 1, 12)
    schedule = simulation.make_schedule(options)
    start = schedule.starts[0][0]
    ra0, dec0 = (float(v) for v in correlator.meridian_icrs(dec, start + 309.2376 / 172800))
    stretch = 1 / np.cos(np.deg2rad(dec0 + north))
    source = Source("s", (ra0 + east * stretch) % 360, dec0 + north, 2.0, -0.7)
    tile = simulation._make_tile(options, instrument, schedule, [source], {}, 0, 0, start)
    subbands = [0, 5, 10, 15]
    files = simulation.write_group(tile, start, tmp_path)
    uvd = meridian_phased([files[sb] for sb in subbands], dec)
    uvd.phase(lon=np.deg2rad(ra0), lat=np.deg2rad(dec0), phase_frame="icrs", cat_name="centre")
    uvd.write_ms(str(tmp_path / "tile.ms"), run_check=False, force_phase=False)
    where = SkyCoord(source.ra_deg, source.dec_deg, unit="deg").to_string("hmsdms", precision=6)
    command = [
        "wsclean", "-quiet", "-j", "2", "-name", "tile", "-size", "256", "256", "-scale", "4asec",
        "-shift", *where.split(), "-weight",
        "natural", "-niter", "0", "-no-update-model-required", "-pol", "I", "-use-wgridder",
        "tile.ms",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    image, header = fits.getdata(tmp_path / "tile-dirty.fits", header=True)
    image, wcs = image[0, 0], WCS(header).celestial

    peak_y, peak_x = np.unravel_index(np.argmax(image), image.shape)
    dx, dy, peak = parabola(image[peak_y - 1 : peak_y + 2, peak_x - 1 : peak_x + 2])
    seen = wcs.all_pix2world(peak_x + dx, peak_y + dy, 0)
    east_arcsec = 3600 * ((seen[0] - source.ra_deg + 180) % 360 - 180) / stretch
    north_arcsec = 3600 * (seen[1] - source.dec_deg)
    # Aberration differs across the field by v/c, 1e-4 of the distance from the centre.
    limit_arcsec = 1e-4 * 3600 * np.hypot(east, north) + 0.05
    assert np.hypot(east_arcsec, north_arcsec) < limit_arcsec

    freq = instrument.freq_hz[subbands].ravel()
    pointing = correlator.meridian_icrs(dec, instrument.times_mjd(start))
    beam = TileBeam(*pointing, freq, np.ones((12, freq.size)))
    samples = beam.samples(source.ra_deg, source.dec_deg) * source.flux(freq, start)
    assert peak == pytest.approx(samples.mean(), rel=0.003)


def parabola(box):
    """Return the offset of the maximum from the middle of 3 x 3 pixels, and its height."""
    y, x = np.mgrid[-1:2, -1:2]
    terms = np.stack([np.ones(9), *(t.ravel() for t in (x, y, x * x, x * y, y * y))], 1)
    c = np.linalg.lstsq(terms, np.log(box.ravel()), rcond=None)[0]
    dx, dy = np.linalg.solve([[2 * c[3], c[4]], [c[4], 2 * c[5]]], [-c[1], -c[2]])
    return dx, dy, float(np.exp(c[0] + 0.5 * (c[1] * dx + c[2] * dy)))
