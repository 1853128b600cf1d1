import math

import pytest

from dsa110_contimg.core.errors import ConfigError
from dsa110_contimg.core.options import ImagingOptions
from dsa110_contimg.imaging import presets, wsclean


def arguments(line, name):
    """Return what follows an option, up to the next one."""
    start = line.index("-" + name) + 1
    end = len(line) - 1  # the Measurement Set
    stop = next((i for i in range(start, end) if line[i].startswith("-")), end)
    return line[start:stop]


def test_standard_command_holds_what_the_telescope_needs():
    recipe = presets.resolve(ImagingOptions())
    line = wsclean.command(recipe, "/d/a.ms", "/s/tile", column="DATA", threads=2, memory_gb=3)
    assert line[0] == "wsclean"
    assert line[-1] == "/d/a.ms"
    assert arguments(line, "size") == ["2400", "2400"]
    assert arguments(line, "scale") == ["6asec"]
    assert arguments(line, "weight") == ["briggs", "0.5"]
    assert arguments(line, "minuv-l") == ["1000"]
    assert arguments(line, "temp-dir") == ["/s"]
    assert arguments(line, "j") == ["2"]
    assert arguments(line, "abs-mem") == ["3"]
    assert "-use-wgridder" in line
    # The model goes to reordered copies; the Measurement Set stays as it is.
    assert "-reorder" in line
    assert "-no-update-model-required" in line
    assert "-apply-primary-beam" not in line


def test_given_values_override_the_preset():
    recipe = presets.resolve(ImagingOptions(preset="quick", robust=-0.5, niter=7))
    assert (recipe.robust, recipe.niter) == (-0.5, 7)
    assert recipe.mgain == presets.PRESETS["quick"].mgain


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_presets_cover_the_beam_and_sample_it(preset):
    recipe = presets.resolve(ImagingOptions(preset=preset))
    assert recipe.size_px * recipe.cell_arcsec / 3600 >= 3.9
    assert recipe.cell_arcsec <= 8
    assert recipe.size_px % 2 == 0


def test_spectral_terms_join_channels():
    line = wsclean.command(presets.resolve(ImagingOptions(preset="deep")), "a.ms", "x/t")
    assert arguments(line, "fit-spectral-pol") == ["2"]
    assert int(arguments(line, "channels-out")[0]) >= 4
    assert "-join-channels" in line
    flat = presets.resolve(ImagingOptions(preset="deep", spectral_terms=1))
    assert flat.channels_out == 1
    assert "-join-channels" not in wsclean.command(flat, "a.ms", "x/t")


def test_overrides_replace_add_and_drop():
    options = ImagingOptions(
        wsclean={"mgain": "0.6", "-taper-gaussian": "50asec", "auto-mask": "off", "no-negative": ""}
    )
    line = wsclean.command(presets.resolve(options), "a.ms", "x/t")
    assert line.count("-mgain") == 1
    assert arguments(line, "mgain") == ["0.6"]
    assert arguments(line, "taper-gaussian") == ["50asec"]
    assert arguments(line, "no-negative") == []
    assert "-auto-mask" not in line


def test_override_that_is_no_option_is_refused():
    recipe = presets.resolve(ImagingOptions(wsclean={"m gain": "1"}))
    with pytest.raises(ConfigError, match="m gain"):
        wsclean.command(recipe, "a.ms", "x/t")


def test_dirty_image_needs_its_psf_and_no_clean_options():
    recipe = presets.resolve(ImagingOptions(niter=0))
    line = wsclean.command(recipe, "a.ms", "x/t")
    assert "-make-psf" in line
    assert "-niter" not in line
    assert set(wsclean.outputs(recipe, "x/t")) == {"residual", "psf"}


def test_second_attempt_takes_smaller_steps():
    deep = presets.resolve(ImagingOptions(preset="deep"))
    safe = presets.safer(deep)
    assert safe.mgain < deep.mgain
    assert safe.gain < deep.gain
    assert safe.niter < deep.niter
    assert safe.channels_out == 1
    assert (safe.size_px, safe.cell_arcsec) == (deep.size_px, deep.cell_arcsec)
    assert presets.safer(safe) == safe


def test_outputs_of_joined_channels_are_the_full_band():
    recipe = presets.resolve(ImagingOptions(preset="deep"))
    assert wsclean.outputs(recipe, "x/t")["residual"].name == "t-MFS-residual.fits"


def test_converging_run_passes():
    watch = wsclean.watch()
    for peak in ("1 Jy", "201.02 mJy", "38.38 mJy", "59.05 µJy", "80 µJy", "704.95 nJy"):
        assert watch(f"Initial peak: {peak} at 900,1380\n") is None
    assert watch("Gridding 3120 rows...\n") is None


@pytest.mark.parametrize("peak", ["90 mJy", "1.2 KJy", "nan Jy", "-inf Jy"])
def test_growing_or_infinite_peak_is_divergence(peak):
    watch = wsclean.watch()
    assert watch("Initial peak: 300 mJy at 1,1\n") is None
    assert watch("Initial peak: 40 mJy at 1,1\n") is None
    assert "diverges" in watch(f"Initial peak: {peak} at 1,1\n")


def test_watch_knows_units():
    watch = wsclean.watch()
    watch("Initial peak: 900 mJy at 1,1")
    assert watch("Initial peak: 1.1 Jy at 1,1") is None
    assert "1.9 Jy after 0.9 Jy" in watch("Initial peak: 1.9 Jy at 1,1")
    assert math.isclose(wsclean._UNITS["µ"], 1e-6)


def test_presets_extra_options_yield_to_the_users():
    quick = presets.resolve(ImagingOptions(preset="quick"))
    assert arguments(wsclean.command(quick, "a.ms", "x/t"), "wgridder-accuracy") == ["1e-3"]
    finer = ImagingOptions(preset="quick", wsclean={"wgridder-accuracy": "1e-5", "mem": "20"})
    line = wsclean.command(presets.resolve(finer), "a.ms", "x/t")
    assert arguments(line, "wgridder-accuracy") == ["1e-5"]
    assert arguments(line, "mem") == ["20"]


def test_mask_goes_to_the_imager():
    line = wsclean.command(presets.resolve(ImagingOptions()), "a.ms", "x/t", mask="x/mask.fits")
    assert arguments(line, "fits-mask") == ["x/mask.fits"]
