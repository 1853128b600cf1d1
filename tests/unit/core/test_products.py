"""Names round-trip, writes are whole or absent, sidecars say what they must."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa110_contimg.core import files, times
from dsa110_contimg.core import layout as layouts
from dsa110_contimg.core import sidecar as sidecars
from dsa110_contimg.core.errors import DataError, message_of
from dsa110_contimg.core.figures import BlindFigures


@given(st.integers(min_value=58849 * 86400, max_value=69807 * 86400))
def test_group_id_round_trip(seconds):
    group = times.group_id(seconds / 86400)
    assert round(times.group_mjd(group) * 86400) == seconds
    assert times.group_id(times.group_mjd(group)) == group


def test_group_id_of_a_known_moment():
    # 2026-01-25T22:26:05 UTC is MJD 61065 + 80765 s.
    assert times.group_id(61065 + (80765 + 0.7) / 86400) == "20260125T222605"
    assert times.night_of("20260125T222605") == "2026-01-25"


def test_seconds_are_truncated_but_not_by_rounding_of_days():
    assert times.group_id(61065 + (80765 - 1e-5) / 86400) == "20260125T222605"


@pytest.mark.parametrize("kind", ["ms", "cal.ms", "image.fits", "photometry.csv", "hdf5"])
def test_layout_names_are_parsed_back(kind):
    path = layouts.Layout(Path("r")).group("20260125T222605", kind)
    assert path.parent == Path("r/nights/2026-01-25/groups/20260125T222605")
    assert layouts.parse_group(path) == "20260125T222605"


def test_a_name_without_group_is_refused():
    with pytest.raises(DataError, match=r"mosaic\.fits"):
        layouts.parse_group("nights/2026-01-25/mosaic.fits")


def test_companions():
    tile = "20260125T222605"
    assert layouts.companion(f"a/{tile}.image.fits", "pb").name == f"{tile}.pb.fits"
    assert layouts.companion("a/mosaic_03.fits", "rms").name == "mosaic_03.rms.fits"


@pytest.mark.parametrize("folder", [False, True])
def test_replacing_keeps_the_old_product_when_the_step_fails(tmp_path, folder):
    def write(path, text):
        if folder:
            path.mkdir()
            path = path / "table.dat"
        path.write_text(text)

    target = tmp_path / "x.ms"
    with files.replacing(target) as temporary:
        write(temporary, "old")
    with pytest.raises(RuntimeError), files.replacing(target) as temporary:
        write(temporary, "half")
        raise RuntimeError
    read = (target / "table.dat" if folder else target).read_text
    assert read() == "old"
    with files.replacing(target) as temporary:
        write(temporary, "new")
    assert read() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.ms"]


def test_a_step_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="without writing"), files.replacing(tmp_path / "x"):
        pass


def test_sidecar_round_trip(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(b"abc")
    product = tmp_path / "x.fits"
    sidecar = sidecars.Sidecar("blind", inputs=[raw], figures=BlindFigures(n_sources=3))
    sidecar.warn("few antennas")
    sidecar.fail("no data")
    sidecar.warn("still failed")
    sidecar.write(product)
    content = sidecars.read_sidecar(product)
    assert content.verdict == "fail"
    assert content.reasons == ["few antennas", "no data", "still failed"]
    assert content.figures == BlindFigures(n_sources=3)
    assert content.inputs[0].size_bytes == 3
    assert content.inputs[0].sha256.startswith("ba7816bf")
    assert {"dsa110-contimg", "numpy", "photutils"} <= set(content.tools)


def test_a_missing_or_broken_sidecar_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.fits\.json"):
        sidecars.read_sidecar(tmp_path / "x.fits")
    (tmp_path / "x.fits.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        sidecars.read_sidecar(tmp_path / "x.fits")


def test_sidecar_refuses_what_json_does_not_know(tmp_path):
    sidecar = sidecars.Sidecar("blind", figures=BlindFigures(n_sources=3))
    sidecar.parameters = {"a": object()}
    with pytest.raises(TypeError):
        sidecar.write(tmp_path / "x")
    assert not json.loads("[]") and not list(tmp_path.iterdir())


def test_a_write_that_fails_tells_the_product(tmp_path):
    """The system names a file that cannot be opened, but not one whose disk is full."""
    with pytest.raises(OSError) as caught, files.replacing(tmp_path / "x.fits"):
        raise OSError(28, "No space left on device")
    assert message_of(caught.value).startswith(f"{tmp_path / 'x.fits'}: disk full; ")
