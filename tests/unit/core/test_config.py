"""Every wrong key or value gets one line that names it; options survive the command line."""

import argparse
from pathlib import Path

import pytest
import yaml

from dsa110_contimg.core import config, options
from dsa110_contimg.core.errors import ConfigError
from support import REPO


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"incomming": "x"}, "incomming: no such key; did you mean 'incoming'?"),
        ({"imaging": {"presett": "deep"}}, "imaging.presett: no such key; did you mean 'preset'?"),
        ({"imaging": {"preset": "fast"}}, "imaging.preset: .*'quick', 'standard'"),
        ({"imaging": {"size_px": "big"}}, "imaging.size_px: .*integer.*'big'"),
        ({"inventory": {"min_subbands": 17}}, "inventory.min_subbands: .*16, got 17"),
        ({"imaging": 3}, "imaging: .*got 3"),
        ({"zzz": 1}, "zzz: no such key; known: incoming"),
    ],
)
def test_wrong_configuration(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        config.load_config(values)
    assert "\n" not in str(error.value)


def test_two_mistakes_are_both_named():
    with pytest.raises(ConfigError, match=r"incomin.*resultz"):
        config.load_config({"incomin": "x", "resultz": "y"})


@pytest.mark.parametrize(
    "options",
    [
        options.ImagingOptions(),
        options.ImagingOptions(preset="deep", robust=-0.5, wsclean={"mgain": "0.6"}),
        options.CalibrationOptions(delay=False, mode="quick"),
        options.InventoryOptions(min_subbands=15, wait_s=60),
    ],
)
def test_options_round_trip_through_the_command_line(options):
    parser = argparse.ArgumentParser()
    config.add_options(parser, type(options))
    args = config.to_args(options)
    assert config.from_args(parser.parse_args(args), type(options)) == options
    given = {arg for arg in args if arg.startswith("--")}
    assert len(given) == len(options.model_dump(exclude_none=True)), "defaults are named, too"


def test_shipped_configuration_is_valid_and_names_the_demo():
    values = yaml.safe_load((REPO / "config/config.yaml").read_text())
    assert config.load_config(values).incoming == Path("demo/incoming")
