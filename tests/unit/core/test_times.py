"""Moments, groups and nights are told from one another exactly."""

import datetime as dt

import pytest
from astropy.time import Time

from dsa110_contimg.core import times
from dsa110_contimg.core.errors import DataError


@pytest.mark.parametrize("moment", [0.0, 86399.75, 1769376819.0])
def test_moments_agree_with_astropy(moment):
    truth = Time(moment, format="unix")
    assert times.mjd_of_unix(moment) == pytest.approx(truth.mjd, rel=0, abs=1e-9)
    assert times.unix_of_mjd(times.mjd_of_unix(moment)) == pytest.approx(moment, abs=1e-5)
    assert times.utc_of_unix(moment) == truth.isot[:19] + "Z"
    assert times.unix_of_utc(times.utc_of_unix(moment)) == int(moment)
    assert Time(times.utc_of_mjd(truth.mjd)).unix == pytest.approx(moment, abs=1e-3)
    assert times.mjd_of_unix(moment) + times.MJD_ZERO_JD == pytest.approx(truth.jd, abs=1e-8)


@pytest.mark.parametrize("group", ["20260125T000000", "20260125T215339", "20241231T235959"])
def test_a_group_tells_its_night_and_its_time(group):
    night, clock = times.night_of(group), times.clock_of(group)
    mjd = times.group_mjd(group)
    assert mjd == pytest.approx(Time(f"{night}T{clock}").mjd, abs=1e-9)
    assert times.group_id(mjd) == group == times.name_of_unix(times.unix_of_mjd(mjd) + 1e-3)
    assert times.night_mjd(night) == int(mjd) and times.night_of_mjd(mjd) == night
    assert group.startswith(times.group_prefix(night))
    with pytest.raises(DataError, match="no group id"):
        times.group_mjd(night)


def test_a_night_ends_when_the_next_begins():
    end = times.unix_of_mjd(times.night_mjd("2026-02-28") + 1)
    assert end == dt.datetime(2026, 3, 1, tzinfo=dt.UTC).timestamp()
