"""What killed steps leave is found, wherever they work."""

import multiprocessing
import os
import signal
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from dsa110_contimg.conversion import convert
from dsa110_contimg.conversion.group_file import write_group_file
from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import (
    ConversionOptions,
    FlaggingOptions,
    ImagingOptions,
    JointOptions,
)
from dsa110_contimg.imaging import tile as imaging
from dsa110_contimg.mosaics import joint
from dsa110_contimg.operations import leftovers
from support.rawfiles import RawGroup, write_group

NIGHT, GROUP = "2026-01-25", "20260125T215339"


def die(*_args, **_options):
    """Stand for the work of a step that is killed at it."""
    os.kill(os.getpid(), signal.SIGKILL)


def convert_a_group(layout, scratch, patch):
    raw = RawGroup(jd0=2461066.4977, dec_app_deg=33.3, antennas=(0, 30), n_times=2, n_chan=2)
    group, ms = (layout.group(GROUP, kind) for kind in ("hdf5", "ms"))
    write_group_file(group, write_group(scratch.with_name("in"), raw))
    patch.setattr(convert, "write_direct", lambda group, ms, *args: (ms.mkdir(), die()))
    convert.convert(group, ms, ConversionOptions(scratch=scratch), FlaggingOptions())


def image_a_tile(layout, _scratch, patch):
    patch.setattr(imaging, "_prepare", MagicMock())
    patch.setattr(imaging, "asdict", lambda recipe: {})
    patch.setattr(imaging, "_image", die)
    imaging.image_tile(layout.group(GROUP, "ms"), layout.group(GROUP) / GROUP, ImagingOptions())


def image_a_field(layout, _scratch, patch):
    patch.setattr(joint, "_tiles", lambda *args: ([(SimpleNamespace(group=GROUP), 1.0)], []))
    patch.setattr(joint.wsclean, "version", lambda: "3.6")
    patch.setattr(joint, "turn", die)
    sets, output = [layout.group(GROUP, "ms")], layout.night(NIGHT, "joint_a.fits")
    joint.image_field(output, sets, [], (30.0, 33.0, 0.5), JointOptions())


@pytest.mark.parametrize("step", [convert_a_group, image_a_tile, image_a_field])
@pytest.mark.parametrize("nights", [None, [NIGHT]], ids=["everywhere", "one night"])
def test_folders_that_a_killed_step_worked_in_are_removed(tmp_path, monkeypatch, step, nights):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "system"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "incoming").mkdir()
    places = {name: tmp_path / name for name in ("incoming", "results")}
    config = load_config(places | {"conversion": {"scratch": tmp_path / "scratch"}})
    layout = Layout(config.results)
    layout.group(GROUP).mkdir(parents=True)
    product = layout.group(GROUP, "ms")
    product.mkdir()
    work = (layout, tmp_path / "scratch", monkeypatch)
    process = multiprocessing.get_context("fork").Process(target=step, args=work)
    before = set(tmp_path.rglob("*"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    held = {p for p in tmp_path.rglob("*") if p.is_dir() and p not in before}
    left = leftovers.remove_stale(config, nights)
    assert left and not [path for path in held if path.exists() and path.name != "in"]
    assert product.exists()
