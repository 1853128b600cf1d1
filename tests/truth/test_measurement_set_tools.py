"""A converted Measurement Set in the hands of the real tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from casacore.tables import table

from dsa110_contimg.conversion import convert as conversion
from dsa110_contimg.conversion.group_file import write_group_file
from dsa110_contimg.core.options import ConversionOptions, FlaggingOptions
from dsa110_contimg.telescope.dsa110 import stations
from support.rawfiles import RawGroup, meridian_icrs, write_group

SOURCE_OFFSET_DEG = (0.35, -0.25)


@pytest.fixture(scope="module")
def tile(tmp_path_factory):
    """One tile with one source off its centre, 25 antennas: raw description, source, MS."""
    folder = tmp_path_factory.mktemp("tools")
    active = [int(n) for n in np.flatnonzero(stations().active)[::4]]
    order = sorted(active, key=lambda n: (n in (101, 115), n))
    raw = RawGroup(jd0=2461066.41234, dec_app_deg=33.3, antennas=tuple(order), n_times=12, n_chan=6)
    ra, dec = meridian_icrs(raw.times.mean(), raw.dec_app_deg, raw.location)
    place = (ra + SOURCE_OFFSET_DEG[0] / np.cos(np.radians(dec)), dec + SOURCE_OFFSET_DEG[1])
    raw.sources = [(*place, 0.05)]
    group = folder / "group_20260125T215339.hdf5"
    write_group_file(group, write_group(folder / "in", raw))
    ms = folder / "20260125T215339.ms"
    conversion.convert(
        group, ms, ConversionOptions(writer="direct"), FlaggingOptions(engine="none")
    )
    return raw, SkyCoord(*place, unit="deg"), ms


@pytest.mark.skipif(not shutil.which("wsclean"), reason="WSClean is not installed")
def test_wsclean_finds_the_source_where_it_is(tile, tmp_path):
    _, place, ms = tile
    options = "-j 2 -size 1200 1200 -scale 3asec -niter 0 -weight uniform"
    command = ["wsclean", *options.split(), "-name", f"{tmp_path}/w", str(ms)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-500:] + result.stderr[-500:]
    with fits.open(tmp_path / "w-image.fits") as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs, image = WCS(hdus[0].header).celestial, hdus[0].data[0, 0]
    y, x = np.unravel_index(image.argmax(), image.shape)
    window = image[y - 2 : y + 3, x - 2 : x + 3].clip(min=0.5 * image.max())
    weight = window - 0.5 * image.max()
    dy, dx = ((weight * axis).sum() / weight.sum() for axis in np.mgrid[-2:3, -2:3])
    found = wcs.pixel_to_world(x + dx, y + dy).icrs
    assert found.separation(place) < 1.5 * u.arcsec
    assert image.max() == pytest.approx(0.05, rel=0.05)  # the peak is off a pixel's centre


@pytest.mark.skipif(not shutil.which("aoflagger"), reason="AOFlagger is not installed")
def test_aoflagger_works_on_it_and_leaves_a_quiet_sky_alone(tile, tmp_path):
    _, _, ms = tile
    copy = tmp_path / "copy.ms"
    shutil.copytree(ms, copy)
    with table(str(copy), readonly=False, ack=False) as main:  # noise as of the receivers
        data = main.getcol("DATA")
        noise = np.random.default_rng(1).normal(scale=0.05, size=(*data.shape, 2))
        main.putcol("DATA", data + noise.view(complex)[..., 0])
    result = subprocess.run(["aoflagger", "-j", "2", str(copy)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-500:] + result.stderr[-500:]
    with table(str(copy), ack=False) as main:
        ant1, ant2, flags = (main.getcol(c) for c in ("ANTENNA1", "ANTENNA2", "FLAG"))
    assert flags[ant1 != ant2].mean() < 0.05


CASA = """
import sys
from pathlib import Path
from dsa110_contimg.core.casa import casa_session
with casa_session() as casa:
    from casatasks import casalog
    casalog.setlogfile(sys.argv[2])
    found = casa.listobs(sys.argv[1])
    flags = casa.flagdata(sys.argv[1], mode="summary", antenna="DSA-001&&*")
assert found["nfields"] == 1, found
assert found["field_0"]["direction"]["refer"] == "ICRS"
print(found["numrecords"], flags["total"])
"""


@pytest.mark.parametrize("writer", ["direct", "pyuvdata"])
def test_casa_lists_it_without_a_warning(tile, tmp_path, writer):
    pytest.importorskip("importlib.metadata").distribution("casatasks")
    raw, _, ms = tile
    if writer == "pyuvdata":
        group = next(ms.parent.glob("group_*.hdf5"))
        ms = tmp_path / "reference.ms"
        options = ConversionOptions(writer="pyuvdata")
        conversion.convert(group, ms, options, FlaggingOptions(engine="none"))
    logfile = tmp_path / "casa.log"
    result = subprocess.run(
        [sys.executable, "-c", CASA, str(ms), str(logfile)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    log = Path(logfile).read_text()
    assert "OVRO_MMA" in log
    trouble = [line for line in log.splitlines() if "\tWARN" in line or "\tSEVERE" in line]
    assert trouble == []
    n_rows, n_selected = result.stdout.split()[-2:]
    assert int(float(n_rows)) == raw.n_times * len(raw.baselines[0])
    assert float(n_selected) >= 0


def test_pyuvdata_reads_it_back(tile):
    from pyuvdata import UVData

    raw, place, ms = tile
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        uvd = UVData.from_file(str(ms), file_type="ms")
    assert uvd.Nfreqs == 96 and uvd.Ntimes == raw.n_times
    (centre,) = uvd.phase_center_catalog.values()
    assert centre["cat_frame"] == "icrs"
    # Turned to the source, all visibilities are its flux.
    uvd.phase(lon=place.ra.rad, lat=place.dec.rad, phase_frame="icrs", cat_name="source")
    assert np.abs(np.angle(uvd.data_array)).max() < 0.01
