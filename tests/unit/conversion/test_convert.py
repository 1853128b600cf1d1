"""Conversion: against an independent computation of the phases, and writer against writer."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from casacore.tables import table

from dsa110_contimg.conversion import convert as conversion
from dsa110_contimg.conversion.group_file import write_group_file
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import ConvertFigures
from dsa110_contimg.core.options import ConversionOptions, FlaggingOptions
from dsa110_contimg.core.sidecar import read_sidecar
from dsa110_contimg.telescope import dsa110
from support.rawfiles import RawGroup, directions, enu, meridian_icrs, visibilities, write_group

NO_FLAGGING = FlaggingOptions(engine="none", clip_amplitude=100.0, mad_sigma=1000.0)
#: Before and after midnight (UTC) of a date on which the declinations are met in practice.
BEFORE, AFTER = 2461066.4977, 2461066.5014


def convert(folder: Path, raw: RawGroup, writer="direct", **options) -> Path:
    """Write raw files, group and convert them."""
    group = folder / "group_20260125T215339.hdf5"
    if not group.exists():
        write_group_file(group, write_group(folder / "in", raw))
    ms = folder / f"{writer}.ms"
    conversion.convert(group, ms, ConversionOptions(writer=writer, **options), NO_FLAGGING)
    return ms


def read(ms: Path, *columns: str) -> list[np.ndarray]:
    with table(str(ms), ack=False) as main:
        return [main.getcol(name) for name in columns]


def field_centre(ms: Path) -> tuple[float, float]:
    with table(f"{ms}::FIELD", ack=False) as field:
        ra, dec = np.degrees(field.getcell("PHASE_DIR", 0)[0])
    return ra % 360, dec


def channel_frequencies(ms: Path) -> np.ndarray:
    with table(f"{ms}::SPECTRAL_WINDOW", ack=False) as window:
        return window.getcell("CHAN_FREQ", 0)


# --- truth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("jd0", [BEFORE, AFTER])
@pytest.mark.parametrize("dec", [-10.0, 16.1, 33.3, 54.6, 71.0])
def test_phases_and_uvw_against_horizontal_coordinates(tmp_path, dec, jd0):
    check_phases(tmp_path, RawGroup(jd0=jd0, dec_app_deg=dec, n_times=8, n_chan=2))


def test_phases_where_right_ascension_wraps(tmp_path):
    """The meridian passes RA 0 in the middle of the tile."""
    raw = RawGroup(jd0=2461066.4, dec_app_deg=33.3, n_times=24, n_chan=2)
    for _ in range(3):
        ra, _ = meridian_icrs(raw.times.mean(), raw.dec_app_deg, raw.location)
        raw = replace(raw, jd0=raw.jd0 - ((ra + 180) % 360 - 180) / 360.9856)
    ms = check_phases(tmp_path, raw)
    figures = read_sidecar(ms, ConvertFigures).figures
    assert max(figures.pointing.ra_deg) > 359 and min(figures.pointing.ra_deg) < 1
    assert min(figures.phase_centre_ra_deg, 360 - figures.phase_centre_ra_deg) < 0.01


def check_phases(folder: Path, raw: RawGroup) -> Path:
    """A source 1.5 deg off centre: phases, uvw and the imaging equation."""
    ra, dec = meridian_icrs(raw.times.mean(), raw.dec_app_deg, raw.location)
    source = ((ra + 1.1 / np.cos(np.radians(dec))) % 360, dec - 1.0)
    ms = convert(folder, replace(raw, sources=[(*source, 2.0)]))
    assert read_sidecar(ms).verdict == "pass"
    data, uvw, ant1, ant2 = read(ms, "DATA", "UVW", "ANTENNA1", "ANTENNA2")
    centre = field_centre(ms)
    assert abs((centre[0] - ra + 180) % 360 - 180) * np.cos(np.radians(dec)) * 3600 < 0.01
    assert abs(centre[1] - dec) * 3600 < 0.01

    antennas = enu(raw.itrf, raw.location)
    baseline = (antennas[ant2] - antennas[ant1]).reshape(raw.n_times, -1, 3)
    towards = [directions(*place, raw.times, raw.location) for place in (source, centre)]
    path = np.einsum("tbi,ti->tb", baseline, towards[0] - towards[1]).ravel()
    freq = channel_frequencies(ms)
    # The Measurement Set holds the conjugate of the raw convention, and -uvw.
    expected = 2.0 * np.exp(-2j * np.pi * path[:, np.newaxis] * freq / dsa110.C_M_S)
    residual = np.angle(data[..., 0] / expected)
    longest = np.linalg.norm(uvw, axis=1).argmax()
    assert np.linalg.norm(uvw[longest]) > 2000
    assert np.abs(residual).max() < 1e-4
    assert np.abs(np.abs(data) - 2).max() < 1e-5
    w = np.einsum("tbi,ti->tb", baseline, towards[1]).ravel()
    assert np.abs(-uvw[:, 2] - w).max() < 1e-5
    assert np.allclose(
        np.linalg.norm(uvw, axis=1), np.linalg.norm(baseline, axis=-1).ravel(), atol=1e-6
    )
    check_imaging_equation(ms, raw, source, data[..., 0] / 2, uvw, freq)
    return ms


def check_imaging_equation(ms, raw, source, vis, uvw, freq) -> None:
    """From uvw and ICRS offsets alone; offsets appear larger by the aberration of the field."""
    (ra, dec), (ra0, dec0) = (np.radians(x) for x in (source, field_centre(ms)))
    l_ = np.cos(dec) * np.sin(ra - ra0)
    m = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0)
    scale = read_sidecar(ms).figures.aberration_scale
    assert 0 < abs(scale - 1) < 1.01e-4
    l_, m = l_ * scale, m * scale
    offset = np.array([l_, m, np.sqrt(1 - l_**2 - m**2) - 1])
    turns = (uvw @ offset)[:, np.newaxis] * freq / dsa110.C_M_S
    worst = np.abs(np.angle(vis * np.exp(-2j * np.pi * turns))).max()
    print("imaging equation", worst)
    assert worst < 0.01


# --- writer against writer ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same awkward group by both writers: absent subbands, NaN, zeros, uneven samples."""
    folder = tmp_path_factory.mktemp("pair")
    raw = RawGroup(
        jd0=BEFORE,
        dec_app_deg=54.6,
        n_times=4,
        n_chan=3,
        subbands=(1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        sources=[(60.0, 54.9, 1.0), (59.5, 53.9, 0.3)],
        noise=0.1,
    )
    files = write_group(folder / "in", raw)
    n_bl = len(raw.baselines[0])
    with h5py.File(files[2], "r+") as file:
        file["Data/visdata"][3 * n_bl :, 0, 1] = np.nan
        file["Data/visdata"][5, 0, 0, 1] = 0
        file["Data/flags"][7, 0, 2, 0] = True
        file["Data/nsamples"][2 * n_bl : 3 * n_bl] = 40
        file["Data/nsamples"][11, 0] = 0
    write_group_file(folder / "group_20260125T215339.hdf5", files)
    return raw, convert(folder, raw), convert(folder, raw, "pyuvdata")


def test_writers_agree(pair):
    _, direct, reference = pair
    with table(str(direct), ack=False) as a, table(str(reference), ack=False) as b:
        assert set(a.colnames()) == set(b.colnames())
    assert np.array_equal(channel_frequencies(direct), channel_frequencies(reference))
    for name in (
        "TIME", "TIME_CENTROID", "EXPOSURE", "INTERVAL", "ANTENNA1", "ANTENNA2", "FLAG",
        "FIELD_ID", "DATA_DESC_ID", "SCAN_NUMBER", "FLAG_ROW", "STATE_ID",
    ):  # fmt: skip
        (a,), (b,) = read(direct, name), read(reference, name)
        assert np.array_equal(a, b), name
    for name in ("WEIGHT", "SIGMA"):
        (a,), (b,) = read(direct, name), read(reference, name)
        assert np.array_equal(a, b), name
    (a, flags), (b,) = read(direct, "WEIGHT_SPECTRUM", "FLAG"), read(reference, "WEIGHT_SPECTRUM")
    assert np.array_equal(a[~flags], b[~flags])
    (a, uvw_a), (b, uvw_b) = (read(ms, "DATA", "UVW") for ms in (direct, reference))
    assert np.abs(uvw_a - uvw_b).max() < 1e-3
    assert np.abs(a - b).max() < 1e-5 * np.abs(b[b != 0]).min() + 1e-6


def test_what_holds_no_data_is_flagged_and_zero(pair):
    raw, direct, _ = pair
    data, flags = read(direct, "DATA", "FLAG")
    assert np.isfinite(data).all()
    shape = (raw.n_times, -1, *data.shape[1:])
    data, flags = data.reshape(shape), flags.reshape(shape)
    auto = np.equal(*read(direct, "ANTENNA1", "ANTENNA2")).reshape(shape[0], -1)[0]
    channel = 3 * (15 - 3)  # sb03 is the damaged one; ascending
    assert flags[3, :, channel + 1].all() and (data[3, :, channel + 1] == 0).all()
    for absent in (0, 4):
        assert flags[:, :, 3 * (15 - absent) : 3 * (16 - absent)].all()
    untouched = flags[:2, :, : 3 * 11][:, ~auto]
    assert not untouched.any()


@pytest.mark.parametrize("writer", ["direct", "pyuvdata"])
def test_constant_samples_need_no_weight_spectrum(tmp_path, writer):
    raw = RawGroup(jd0=BEFORE, dec_app_deg=33.3, antennas=(0, 115, 30), n_times=2, n_chan=2)
    ms = convert(tmp_path, replace(raw, sources=[(57.0, 33.0, 1.0)]), writer)
    with table(str(ms), ack=False) as main:
        assert "WEIGHT_SPECTRUM" not in main.colnames()
        assert (main.getcol("WEIGHT") == 96).all()
        assert np.allclose(main.getcol("SIGMA"), 96**-0.5)


def test_processes_give_the_same_as_one(pair, tmp_path, monkeypatch):
    raw, direct, _ = pair
    monkeypatch.setattr(conversion, "_POOL_FROM_BYTES", 0)
    shutil.copytree(direct.parent / "in", tmp_path / "in")
    group = tmp_path / "group_20260125T215339.hdf5"
    write_group_file(group, sorted((tmp_path / "in").iterdir()))
    ms = convert(tmp_path, raw, workers=2)
    for name in ("DATA", "FLAG", "WEIGHT", "UVW", "WEIGHT_SPECTRUM"):
        assert np.array_equal(*read(ms, name), *read(direct, name)), name


def test_a_worker_that_cannot_read_ends_the_step(pair, tmp_path, monkeypatch):
    """The file keeps its size, but a chunk cannot be read."""
    raw, direct, _ = pair
    monkeypatch.setattr(conversion, "_POOL_FROM_BYTES", 0)
    shutil.copytree(direct.parent / "in", tmp_path / "in")
    group = tmp_path / "group_20260125T215339.hdf5"
    files = sorted((tmp_path / "in").iterdir())
    write_group_file(group, files)
    content = bytearray(files[4].read_bytes())
    content[:512] = bytes(512)
    files[4].write_bytes(content)
    with pytest.raises(DataError, match=files[4].name) as error:
        convert(tmp_path, raw, workers=2)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.ms")) and not list(tmp_path.glob(".tmp*"))


# --- structure ---------------------------------------------------------------------------------


def test_rows_channels_and_subtables(pair):
    raw, direct, _ = pair
    ant1, ant2, times = read(direct, "ANTENNA1", "ANTENNA2", "TIME")
    assert (ant1 <= ant2).all()
    order = np.lexsort((ant2, ant1, times))
    assert np.array_equal(order, np.arange(len(times)))
    assert (np.diff(channel_frequencies(direct)) > 0).all()
    with table(f"{direct}::ANTENNA", ack=False) as antenna:
        assert antenna.getcol("MOUNT") == ["ALT-AZ"] * 117
        assert antenna.getcol("NAME")[102] == "DSA-103"
        assert np.abs(antenna.getcol("POSITION") - dsa110.stations().itrf_m).max() < 0.01
    with table(f"{direct}::OBSERVATION", ack=False) as observation:
        assert observation.getcol("TELESCOPE_NAME") == ["OVRO_MMA"]
        start, end = observation.getcell("TIME_RANGE", 0)
        assert end - start == pytest.approx(raw.n_times * dsa110.INTEGRATION_S)
    with table(f"{direct}::STATE", ack=False) as state:
        assert state.nrows() == 1
    with table(f"{direct}::HISTORY", ack=False) as history:
        assert "direct" in history.getcol("MESSAGE")[0]


def test_pointing_follows_the_meridian(pair):
    raw, direct, _ = pair
    with table(f"{direct}::POINTING", ack=False) as pointing:
        found = np.degrees(pointing.getcol("DIRECTION")[::117, 0])
    expected = [meridian_icrs(jd, raw.dec_app_deg, raw.location) for jd in raw.times]
    assert np.allclose(found, expected, atol=1e-6)
    figures = read_sidecar(direct, ConvertFigures).figures
    assert np.allclose(figures.pointing.ra_deg, [ra for ra, _ in expected], atol=1e-6)
    assert figures.dec_app_deg == pytest.approx(54.6)


def test_amplitudes_survive(pair):
    """Unpolarised in, unpolarised out: XX is the raw value but for its phase."""
    raw, direct, _ = pair
    (data,) = read(direct, "DATA")
    expected = np.abs(visibilities(raw, 8)).reshape(raw.n_times, -1, 3)
    ant1, ant2 = raw.baselines
    order = np.lexsort((np.maximum(ant1, ant2), np.minimum(ant1, ant2)))
    found = np.abs(data.reshape(raw.n_times, -1, *data.shape[1:])[..., 3 * 7 : 3 * 8, 0])
    assert np.allclose(found[:, :, ::-1], expected[:, order], rtol=1e-5)


# --- what is refused ---------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path) -> tuple[Path, list[Path]]:
    raw = RawGroup(jd0=BEFORE, dec_app_deg=33.3, antennas=(0, 115, 30), n_times=2, n_chan=2)
    files = write_group(tmp_path / "in", replace(raw, sources=[(57.0, 33.0, 1.0)]))
    group = tmp_path / "group_20260125T215339.hdf5"
    write_group_file(group, files)
    return group, files


def refused(group: Path, match: str, **options) -> None:
    target = group.with_name("out.ms")
    with pytest.raises(DataError, match=match) as error:
        conversion.convert(group, target, ConversionOptions(**options), NO_FLAGGING)
    assert "\n" not in str(error.value)
    assert not target.exists()
    assert not list(group.parent.glob(".tmp*"))


def test_a_source_that_has_gone_is_named(small):
    group, files = small
    files[3].unlink()
    refused(group, f"{files[3].name}.*has gone")


def test_a_source_that_has_changed_is_named(small):
    group, files = small
    files[3].write_bytes(files[3].read_bytes()[:-1])
    refused(group, f"{files[3].name}.*make the group again")


def test_no_group_file(small):
    group, files = small
    refused(files[0], "no group file")
    refused(group.with_name("absent.hdf5"), "missing")


def test_not_enough_space(small, monkeypatch):
    group, _ = small
    usage = shutil.disk_usage(group.parent)._replace(free=10)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda folder: usage)
    refused(group, "free")


def test_scratch_folder(small, tmp_path):
    group, _ = small
    refused(group, "scratch folder does not exist", scratch=tmp_path / "nowhere")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    target = tmp_path / "out.ms"
    conversion.convert(group, target, ConversionOptions(scratch=scratch), NO_FLAGGING)
    assert list(scratch.iterdir()) == []
    with table(str(target), ack=False) as main:
        assert main.nrows() == 12


def test_random_bytes_are_refused_in_one_line_or_convert(small, tmp_path):
    group, files = small
    whole = files[1].read_bytes()
    rng = random.Random(7)
    ends = set()
    for _ in range(40):
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 3, 10))):
            changed[rng.randrange(len(whole))] = rng.randrange(256)
        files[1].write_bytes(changed)
        target = tmp_path / "out.ms"
        try:
            write_group_file(group, files)
            conversion.convert(group, target, ConversionOptions(), NO_FLAGGING)
            with table(str(target), ack=False) as main:
                assert np.isfinite(main.getcol("DATA")).all()
            ends.add("converted")
        except DataError as error:
            assert "\n" not in str(error)
            assert "_sb" in str(error)
            ends.add("refused")
    assert ends == {"converted", "refused"}


def test_auto_takes_the_reference_for_two_subbands(tmp_path):
    raw = RawGroup(
        jd0=BEFORE, dec_app_deg=33.3, antennas=(0, 115, 30), n_times=2, n_chan=2, subbands=(4, 5)
    )
    ms = convert(tmp_path, replace(raw, sources=[(57.0, 33.0, 1.0)]), "auto")
    assert read_sidecar(ms).figures.writer == "pyuvdata"


def test_validation_finds_wrong_uvw(small, tmp_path):
    from dsa110_contimg.conversion.validation import validate
    from dsa110_contimg.core.sidecar import Sidecar

    group, _ = small
    target = tmp_path / "out.ms"
    conversion.convert(group, target, ConversionOptions(), NO_FLAGGING)
    with table(str(target), readonly=False, ack=False) as main:
        main.putcol("UVW", main.getcol("UVW") * [1, 1, -1])
    sidecar = Sidecar(step="test")
    validate(target, sidecar)
    assert sidecar.verdict == "fail"
    assert "uvw differ" in sidecar.reasons[0]


def test_validation_names_a_column_that_is_missing(small, tmp_path):
    from dsa110_contimg.conversion.validation import validate
    from dsa110_contimg.core.sidecar import Sidecar

    group, _ = small
    target = tmp_path / "out.ms"
    conversion.convert(group, target, ConversionOptions(), NO_FLAGGING)
    with table(str(target), readonly=False, ack=False) as main:
        main.removecols("DATA")
    sidecar = Sidecar(step="test")
    validate(target, sidecar)
    assert sidecar.verdict == "fail"
    assert sidecar.reasons == ["Measurement Set: columns missing: ['DATA']"]
