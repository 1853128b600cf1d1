"""The simulator against explicit sums with ERFA's astrometry, the file format, and pyuvdata."""

import erfa
import h5py
import numpy as np
import pytest
from astropy.time import Time

from dsa110_contimg.catalogs import calibrators, catalogue
from dsa110_contimg.core.errors import ConfigError, DataError
from dsa110_contimg.core.times import group_id
from dsa110_contimg.simulation import correlator
from dsa110_contimg.simulation import season as simulation
from dsa110_contimg.simulation.correlator import Instrument, Source
from dsa110_contimg.simulation.season import SimulationOptions
from dsa110_contimg.telescope import dsa110
from dsa110_contimg.telescope.beam import airy_power

C = 299792458.0


def observed(ra_deg, dec_deg, mjd):
    """Hour angle and declination, rad, straight from ERFA (not through astropy's frames)."""
    dsa110.location()
    time = Time(mjd, format="mjd", scale="utc")
    from astropy.utils import iers

    x, y = iers.earth_orientation_table.get().pm_xy(time)
    out = erfa.atco13(
        np.deg2rad(ra_deg), np.deg2rad(dec_deg), 0, 0, 0, 0,
        time.jd1, time.jd2, float(time.delta_ut1_utc),
        dsa110.LONGITUDE_RAD, dsa110.LATITUDE_RAD, dsa110.HEIGHT_M,
        x.to_value("rad"), y.to_value("rad"), 0, 0, 0, 1,
    )  # fmt: skip
    return out[2], out[3]


def direct_sum(instrument, sky, start_mjd, dec_app_deg):
    """V_ab = sum S A exp(2 pi i nu/c (r_b - r_a).(s - s0)), in geocentric axes, one by one."""
    itrf = dsa110.stations().itrf_m
    lon, dec0 = dsa110.LONGITUDE_RAD, np.deg2rad(dec_app_deg)

    def geocentric(ha, dec):  # the meridian of hour angle ha is at longitude lon - ha
        return np.array(
            [np.cos(dec) * np.cos(lon - ha), np.cos(dec) * np.sin(lon - ha), np.sin(dec)]
        )

    order = instrument.antennas
    pairs = [(order[i], order[j]) for j in range(len(order)) for i in range(j + 1)]
    freq = instrument.freq_hz.ravel()
    out = np.zeros((instrument.integrations, len(pairs), len(freq)), complex)
    s0 = geocentric(0.0, dec0)
    for k in range(instrument.integrations):
        mjd = start_mjd + (k + 0.5) * dsa110.TILE_S / instrument.integrations / 86400
        for source in sky:
            s = geocentric(*observed(source.ra_deg, source.dec_deg, mjd))
            attenuation = airy_power(np.arccos(np.clip(s @ s0, -1, 1)), freq)
            flux = source.flux_jy * (freq / 1.4e9) ** source.alpha
            for n, (a, b) in enumerate(pairs):
                turns = freq / C * ((itrf[b] - itrf[a]) @ (s - s0))
                out[k, n] += flux * attenuation * np.exp(2j * np.pi * turns)
    return out


@pytest.mark.parametrize(
    ("ra", "dec"), [(24.4, 33.2), (0.02, -10.0), (359.95, 16.1), (128.7, 54.6), (200.0, 71.0)]
)
def test_visibilities_are_those_of_the_explicit_sum(ra, dec):
    instrument = Instrument.choose(7, 2, 2)
    start = correlator.transit_mjd(ra, dec, 61074.0) - 0.002
    dec_app = np.rad2deg(correlator.apparent_directions(ra, dec, start)[1][0])
    rng = np.random.default_rng(4)
    scale = np.array([1 / np.cos(np.deg2rad(dec)), 1.0])
    sky = [
        Source(f"s{n}", *map(float, ((ra, dec) + scale * rng.uniform(-1.5, 1.5, 2))), 1.0 + n, -0.7)
        for n in range(4)
    ]
    got = correlator.predict(instrument, sky, start, dec_app)
    expected = direct_sum(instrument, sky, start, dec_app)
    assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()


def test_directions_agree_with_erfa_and_with_their_inverse():
    for mjd in (61074.1, 61074.99999, 61230.5):
        for ra, dec in ((0.01, -10.0), (24.42, 33.16), (359.99, 71.0)):
            ha, app = correlator.apparent_directions(ra, dec, mjd)
            expected = observed(ra, dec, mjd)
            assert abs(ha[0] - expected[0]) < 1e-9
            assert abs(app[0] - expected[1]) < 1e-9
        ra, dec = correlator.meridian_icrs(54.6, mjd)
        ha, app = observed(float(ra), float(dec), mjd)
        assert abs(ha) < 1e-8
        assert abs(app - np.deg2rad(54.6)) < 1e-9


@pytest.mark.parametrize("ra", [0.001, 24.42, 359.999])
def test_transit(ra):
    mjd = correlator.transit_mjd(ra, 33.16, 61074.0)
    assert 61074.0 <= mjd < 61075.0
    assert abs(observed(ra, 33.16, mjd)[0]) < 1e-8


def test_a_source_in_the_phase_centre_has_zero_phase_and_one_to_the_east_positive_u_phase():
    instrument = Instrument.choose(10, 1, 1)
    mjd = instrument.times_mjd(61074.03)[0]
    ra, dec = correlator.meridian_icrs(33.3, mjd)
    centre = [Source("c", float(ra), float(dec), 2.0, 0.0)]
    vis = correlator.predict(instrument, centre, 61074.03, 33.3)
    assert vis == pytest.approx(2.0 * np.ones_like(vis), abs=1e-4)
    east = [Source("e", float(ra) + 0.001, float(dec), 1.0, 0.0)]
    vis = correlator.predict(instrument, east, 61074.03, 33.3)[0, :, 0]
    u = instrument.uvw_m(np.deg2rad(33.3))[:, 0]
    expected = 2 * np.pi * u * instrument.freq_hz[0, 0] / C * np.deg2rad(0.001)
    expected *= np.cos(np.deg2rad(float(dec)))
    assert np.angle(vis) == pytest.approx(expected, abs=0.01)
    assert abs(expected).max() > 0.3


def test_sub_integrations_smear_as_the_fringe_rate_says():
    """A source east of the pointing loses sinc(fringe rate x time) on an east-west baseline."""
    instrument = Instrument.choose(12, 1, 3)
    ra, dec = correlator.meridian_icrs(33.3, instrument.times_mjd(61074.03)[1])
    source = [Source("e", float(ra), float(dec) + 1.0, 1.0, 0.0)]
    sharp = correlator.predict(instrument, source, 61074.03, 33.3)[1, :, 0]
    smeared = correlator.predict(instrument, source, 61074.03, 33.3, sub_integrations=48)[1, :, 0]
    ha, app = observed(float(ra), float(dec) + 1.0, instrument.times_mjd(61074.03)[1])
    x, y, _ = (
        instrument.local_m[instrument.baselines[1]] - instrument.local_m[instrument.baselines[0]]
    ).T
    d0 = np.deg2rad(33.3)
    # d/dt of (x cos d cos H - y cos d sin H) for source minus tracking centre, at rate omega
    rate = dsa110.EARTH_RATE_RAD_S * (
        -(x * np.sin(ha) + y * np.cos(ha)) * np.cos(app) + y * np.cos(d0)
    )
    turns = rate * instrument.freq_hz[0, 0] / C * instrument.integration_s
    assert np.abs(turns).max() > 0.3
    assert np.abs(smeared / sharp) == pytest.approx(np.abs(np.sinc(turns)), abs=5e-3)


def test_the_beam_drifts_through_a_source():
    instrument = Instrument.choose(3, 1, 24)
    ra, dec = correlator.meridian_icrs(33.3, 61074.03 + dsa110.TILE_S / 172800)
    source = [Source("s", float(ra) + 1.2, float(dec), 1.0, 0.0)]
    auto = correlator.predict(instrument, source, 61074.03, 33.3)[:, 0, 0].real
    ha = [observed(float(ra) + 1.2, float(dec), t)[0] for t in instrument.times_mjd(61074.03)]
    assert np.all(np.diff(auto) > 0)
    expected = airy_power(np.abs(ha) * np.cos(np.deg2rad(33.3)), instrument.freq_hz[0, 0])
    assert auto == pytest.approx(expected, rel=2e-3)


def test_a_pointing_offset_moves_the_beam_and_not_the_source():
    instrument = Instrument.choose(3, 1, 1)
    mjd = instrument.times_mjd(61074.03)[0]
    ra, dec = (float(v) for v in correlator.meridian_icrs(33.3, mjd))
    north = [Source("n", ra, dec + 0.5, 1.0, 0.0)]
    freq = instrument.freq_hz[0, 0]
    for offset, distance in ((0.0, 0.5), (0.23, 0.27), (-0.23, 0.73)):
        vis = correlator.predict(instrument, north, 61074.03, 33.3, pointing_offset_deg=offset)
        assert abs(vis[0, 1, 0]) == pytest.approx(airy_power(np.deg2rad(distance), freq), rel=1e-4)
        plain = correlator.predict(instrument, north, 61074.03, 33.3)
        assert np.angle(vis) == pytest.approx(np.angle(plain), abs=1e-5)


# ------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def first_files(tiny_night):
    group = next(iter(tiny_night.groups.values()))
    return [tiny_night.folder / f for f in group["files"]]


def test_header_is_the_correlators(first_files, tiny_night):
    options = tiny_night.options
    n_ant = options.antennas
    n_bl, n_t = n_ant * (n_ant + 1) // 2, options.integrations
    with h5py.File(first_files[0]) as file:
        header = file["Header"]
        scalars = {
            "telescope_name": b"OVRO_MMA", "instrument": b"DSA", "object_name": b"search",
            "phase_type": b"drift", "Nants_data": n_ant, "Nants_telescope": 117, "Nbls": n_bl,
            "Nblts": n_bl * n_t, "Nfreqs": options.channels, "Npols": 2, "Ntimes": n_t, "Nspws": 1,
            "altitude": 1188.0519,
        }  # fmt: skip
        assert {k: header[k][()] for k in scalars} == scalars
        assert header["latitude"][()] == pytest.approx(37.2334051, abs=1e-7)
        assert header["longitude"][()] == pytest.approx(-118.283, abs=1e-7)
        expected = set(scalars) | {
            "latitude", "longitude", "history", "phase_center_app_dec", "antenna_diameters",
            "antenna_names", "antenna_numbers", "antenna_positions", "ant_1_array", "ant_2_array",
            "uvw_array", "time_array", "integration_time", "freq_array", "channel_width",
            "spw_array", "polarization_array", "extra_keywords",
        }  # fmt: skip
        assert set(header) == expected
        assert header["polarization_array"][:].tolist() == [-5, -6]
        assert header["spw_array"][:].tolist() == [1]
        assert header["antenna_names"].dtype == "S4"
        assert header["antenna_names"][[0, 116]].tolist() == [b"1", b"117"]
        assert header["antenna_numbers"][:].tolist() == list(range(117))
        assert set(header["antenna_diameters"][:]) == {4.65}
        assert header["uvw_array"].dtype == np.float32
        assert header["time_array"].dtype == np.float64
        assert header["ant_1_array"].dtype.kind == "i"
        assert header["freq_array"].shape == (1, options.channels)
        assert np.all(np.diff(header["freq_array"][0]) < 0)
        assert header["channel_width"][()] > 0
        extra = header["extra_keywords"]
        assert extra["ha_phase_center"][()] == 0
        assert extra["phase_center_epoch"][()] == b"HADEC"
        assert extra["phase_center_dec"][()] == header["phase_center_app_dec"][()]
        delays = np.array(extra["applied_delays_ns"][()].split(), int).reshape(117, 2)
        data = file["Data"]
        shape = (n_bl * n_t, 1, options.channels, 2)
        for name, dtype in (("visdata", "c8"), ("flags", "?"), ("nsamples", "f4")):
            assert data[name].shape == shape
            assert data[name].dtype == np.dtype(dtype)
            assert data[name].chunks is not None
            assert data[name].compression is None
        assert not data["flags"][:].any()
        assert set(np.unique(data["nsamples"][:])) == {96}
        used = np.unique(header["ant_1_array"][:])
        assert np.all((delays[used] >= 15400) & (delays[used] <= 16400))
        assert not delays[np.setdiff1d(np.arange(117), used)].any()


def test_a_full_size_file_has_the_size_of_a_real_one(tmp_path):
    """145,348,600 bytes: dtypes, shapes and chunks; what is left is the length of strings."""
    instrument = Instrument.choose()
    data = np.zeros((24, 4656, 48, 2), np.complex64)
    path = tmp_path / "full_sb00.hdf5"
    delays = " ".join(["15400"] * 192 + ["0"] * 42)
    correlator.write_uvh5(path, instrument, 0, 61074.0, 33.3, data, delays)
    assert path.stat().st_size == pytest.approx(145_348_600, abs=2048)
    assert [p.name for p in tmp_path.iterdir()] == ["full_sb00.hdf5"]
    path.unlink()


def test_full_size_frequencies_and_times():
    instrument = Instrument.choose()
    assert instrument.freq_hz.shape == (16, 48)
    assert instrument.freq_hz[0, 0] == pytest.approx(1498.6431884765625e6, abs=1)
    assert np.diff(instrument.freq_hz.ravel()) == pytest.approx(-244140.625)
    assert instrument.integration_s == pytest.approx(12.884901888)
    assert len(instrument.antennas) == 96
    assert instrument.noise_jy(6500) == pytest.approx(2.59, abs=0.01)


def test_baseline_lengths_are_those_of_the_geodetic_station_table():
    text = (
        calibrators.resources.files("dsa110_contimg.telescope")
        .joinpath("data/stations.csv")
        .read_text()
    )
    rows = list(calibrators.csv.DictReader(text.splitlines()))
    lon, lat, height = (
        np.array([float(r[k]) for r in rows]) for k in ("lon_deg", "lat_deg", "height_m")
    )
    itrf = np.stack(erfa.gd2gc(1, np.deg2rad(lon), np.deg2rad(lat), height))
    instrument = Instrument.choose(96, 1, 1)
    first, second = (instrument.antennas[i] for i in instrument.baselines)
    expected = np.linalg.norm(itrf[second] - itrf[first], axis=-1)
    lengths = np.linalg.norm(instrument.uvw_m(np.deg2rad(33.2)), axis=-1)
    assert lengths == pytest.approx(expected, abs=1e-3)
    assert lengths.max() == pytest.approx(2601.63, abs=0.01)


@pytest.mark.parametrize("channels", [1, 4, 6, 48])
def test_narrower_presets_cover_the_same_band(channels):
    instrument = Instrument.choose(5, channels, 4)
    full = Instrument.choose()
    low, high = instrument.freq_hz.min(), instrument.freq_hz.max()
    half = instrument.channel_width_hz / 2
    assert low - half == pytest.approx(full.freq_hz.min() - full.channel_width_hz / 2)
    assert high + half == pytest.approx(full.freq_hz.max() + full.channel_width_hz / 2)
    assert np.diff(instrument.freq_hz.ravel()) == pytest.approx(-instrument.channel_width_hz)
    with pytest.raises(ConfigError, match="divide"):
        Instrument.choose(5, 7, 4)


@pytest.mark.parametrize("count", [3, 16, 24, 44, 95, 96])
def test_antennas_are_chosen_from_all_arms(count):
    order = correlator.antenna_order(count)
    table = dsa110.stations()
    assert len(set(order)) == len(order) == count
    assert np.all(table.active[order])
    assert list(order[:2]) == [115, 101]
    if count >= 16:
        arms, numbers = np.unique(np.array(table.arms)[order], return_counts=True)
        share = dict(zip(arms, numbers / count, strict=True))
        assert share["outrigger"] == pytest.approx(14 / 96, abs=0.07)
        assert share["EW"] == pytest.approx(47 / 96, abs=0.1)


def test_baselines_come_in_the_correlators_order(first_files):
    with h5py.File(first_files[3]) as file:
        header = file["Header"]
        n_bl, n_t = header["Nbls"][()], header["Ntimes"][()]
        ant1 = header["ant_1_array"][:].reshape(n_t, n_bl)
        ant2 = header["ant_2_array"][:].reshape(n_t, n_bl)
        order = ant1[0][ant1[0] == ant2[0]]
        uvw = header["uvw_array"][:].reshape(n_t, n_bl, 3)
        positions = header["antenna_positions"][:]
        dec = header["extra_keywords/phase_center_dec"][()]
    assert np.all(ant1 == ant1[0])
    expected = [(order[i], order[j]) for j in range(len(order)) for i in range(j + 1)]
    assert list(zip(ant1[0], ant2[0], strict=True)) == expected
    assert {a for a, b in expected if a > b} == {101, 115}
    for a, b in expected:
        assert b not in (101, 115) or a in (101, 115)  # these two always come first
        assert a <= b or a in (101, 115)
    assert np.all(uvw == uvw[0])
    lon = dsa110.LONGITUDE_RAD
    east = np.array([-np.sin(lon), np.cos(lon), 0])
    pole_ward = np.array([-np.sin(dec) * np.cos(lon), -np.sin(dec) * np.sin(lon), np.cos(dec)])
    to_source = np.array([np.cos(dec) * np.cos(lon), np.cos(dec) * np.sin(lon), np.sin(dec)])
    baseline = positions[ant2[0]] - positions[ant1[0]]
    wanted = baseline @ np.stack([east, pole_ward, to_source], 1)
    assert uvw[0] == pytest.approx(wanted, abs=2e-4)


def test_names_times_and_tiles(tiny_night, tmp_path):
    ids = list(tiny_night.groups)
    starts = [g["start_mjd"] for g in tiny_night.groups.values()]
    assert np.diff(starts) * 86400 == pytest.approx(309.237645312, abs=1e-4)
    for name, group in tiny_night.groups.items():
        times = []
        for number, relative in enumerate(group["files"]):
            assert relative.endswith(f"_sb{number:02d}.hdf5")
            with h5py.File(tiny_night.folder / relative) as file:
                times.append(file["Header/time_array"][:])
                step = file["Header/integration_time"][0]
        assert all(np.array_equal(t, times[0]) for t in times)
        assert name == group_id(times[0][0] - 2400000.5 - step / 2 / 86400)
    transit = correlator.transit_mjd(24.42208096, 33.15975916, 61074.0)
    assert starts[0] < transit < starts[1]
    assert ids[0].startswith("20260203")
    rng = np.random.default_rng(0)
    spreads = []
    for group in range(48):
        names = correlator.file_names(tmp_path, 61074.5, group, rng)
        seconds = [
            int(n.name[11:13]) * 3600 + int(n.name[14:16]) * 60 + int(n.name[17:19]) for n in names
        ]
        spreads.append(max(seconds) - min(seconds))
    assert sum(s <= 2 for s in spreads) >= 40
    assert any(10 < s <= 22 for s in spreads)
    assert any(56 <= s <= 80 for s in spreads)


def test_pyuvdata_reads_a_group(first_files, clean_night):
    pyuvdata = pytest.importorskip("pyuvdata")
    uvd = pyuvdata.UVData()
    uvd.read(
        first_files[5], file_type="uvh5", run_check=False, run_check_acceptability=False,
        check_extra=False, strict_uvw_antpos_check=False, fix_old_proj=False, check_autos=False,
        fix_autos=False,
    )  # fmt: skip
    instrument = Instrument.choose(32, 4, 8)
    assert uvd.Nants_data == 32
    assert uvd.vis_units == "uncalib"
    assert np.squeeze(uvd.freq_array) == pytest.approx(instrument.freq_hz[5])
    assert uvd.data_array.shape[0] == uvd.Nblts == 528 * 8
    uvd.conjugate_bls("ant1<ant2")
    assert np.all(uvd.ant_1_array <= uvd.ant_2_array)
    # Sidereal time is the apparent right ascension of the meridian, 0.34 deg from that in ICRS.
    mid = next(iter(clean_night.groups.values()))
    assert np.rad2deg(uvd.lst_array.mean()) == pytest.approx(mid["ra_deg"] + 0.34, abs=0.05)


# ------------------------------------------------------------------------------- noise, gains, RFI


def make_tile(**changes):
    settings = {
        "antennas": 20, "channels": 8, "integrations": 6, "sources": 0, "variables": False,
        "rfi": False, "dead_antennas": 0, "calibrator": "", "dec_deg": 20.0, "gains": False,
    }  # fmt: skip
    options = SimulationOptions(**(settings | changes))
    instrument = Instrument.choose(options.antennas, options.channels, options.integrations)
    schedule = simulation.make_schedule(options)
    sky = simulation.make_sky(options, schedule)
    dead = simulation.dead_antennas(options, instrument)
    start = schedule.starts[0][0]
    return simulation._make_tile(options, instrument, schedule, sky, dead, 0, 0, start)


def cross(tile):
    first, second = tile.instrument.baselines
    return first != second


def test_noise_follows_the_radiometer_equation():
    tile = make_tile()
    data = tile.subband(0)
    width, step = 48 / 8 * 244140.625, 24 / 6 * 12.884901888
    expected = 6500 / np.sqrt(2 * width * step)
    noise = data[:, cross(tile)]
    for part in (noise.real, noise.imag, noise[..., 0].real, noise[..., 1].imag):
        assert part.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * part.size))
        assert abs(part.mean()) < 5 * expected / np.sqrt(part.size)
    auto = data[:, ~cross(tile)]
    assert np.all(auto.imag == 0)
    assert auto.real.mean() == pytest.approx(6500, rel=1e-3)
    assert auto.real.std() == pytest.approx(6500 / np.sqrt(width * step), rel=0.1)
    polarisations = np.corrcoef(noise[..., 0].real.ravel(), noise[..., 1].real.ravel())[0, 1]
    assert abs(polarisations) < 5 / np.sqrt(noise[..., 0].size)


def test_noise_differs_between_subbands_and_not_between_runs():
    tile = make_tile()
    assert np.array_equal(tile.subband(3), make_tile().subband(3))
    assert not np.array_equal(tile.subband(3), tile.subband(4))


def test_gains_enter_as_conjugate_of_the_first_times_the_second(clean_night):
    name, group = next(iter(clean_night.groups.items()))
    instrument = Instrument.choose(32, 4, 8)
    model = correlator.predict(
        instrument, clean_night.sky, group["start_mjd"], group["dec_app_deg"], subbands=[2]
    )
    truth = clean_night.gains(name)
    position = {a: n for n, a in enumerate(truth["antennas"])}
    with h5py.File(clean_night.folder / group["files"][2]) as file:
        data = file["Data/visdata"][:, 0].reshape(8, -1, 4, 2)
        pairs = [
            [position[a] for a in file[f"Header/ant_{n}_array"][: data.shape[1]]] for n in (1, 2)
        ]
    gains = truth["gains"][:, 8:12]
    expected = model[..., None] * gains[pairs[0]].conj() * gains[pairs[1]]
    assert data == pytest.approx(expected, abs=float(1e-5 * np.abs(expected).max()))


def test_gains_look_like_the_telescopes():
    options = SimulationOptions(seed=3)
    instrument = Instrument.choose()
    gains = simulation.make_gains(instrument, options, 0)
    amplitude = np.abs(gains)
    assert np.median(amplitude) == pytest.approx(0.07, rel=0.1)
    subband = amplitude.reshape(96, 16, 48, 2)
    loss = 1 - subband[:, :, [0, -1]].mean(2) / subband[:, :, 20:28].mean(2)
    assert 0.20 <= np.median(loss) <= 0.33
    slope = np.diff(np.unwrap(np.angle(gains), axis=1), axis=1).mean(1)
    delay_ns = slope / (-2 * np.pi * 244140.625) * 1e9
    assert delay_ns.std() == pytest.approx(2.0, rel=0.25)
    spread = np.abs(np.exp(1j * np.angle(gains[:, 0])).mean())
    assert spread < 0.25
    other = simulation.make_gains(instrument, options, 1) / gains
    assert np.abs(other).std() == pytest.approx(0.02 * np.sqrt(2), rel=0.15)
    assert np.angle(other).std() == pytest.approx(0.1 * np.sqrt(2), rel=0.15)


def test_drift_changes_gains_within_a_night():
    options = SimulationOptions(drift_amplitude=0.02, drift_phase_deg=10)
    drift = simulation.make_drift(options, 0, 2000, np.array([0.0, 2.0]))
    assert drift[0] == pytest.approx(np.ones(2000))
    assert np.abs(drift[1]).std() == pytest.approx(0.04, rel=0.1)
    assert np.rad2deg(np.angle(drift[1])).std() == pytest.approx(20, rel=0.1)


def test_interference_is_where_the_truth_says():
    clean, dirty = make_tile(noise=False), make_tile(noise=False, rfi=True)
    pairs = cross(clean)
    found = np.concatenate(
        [np.abs(dirty.subband(sb) - clean.subband(sb))[:, pairs].mean((1, 3)) for sb in range(16)],
        1,
    )
    power = dirty.rfi.power_jy
    assert np.array_equal(found > 0, power > 0)
    hit = power > 0
    assert found[hit] / power[hit] == pytest.approx(np.ones(hit.sum()), rel=0.2)
    assert 0.005 < hit.mean() < 0.25
    assert np.any(hit.all(0))  # persistent
    assert np.any(hit.sum(1) > 16)  # broad-band burst
    assert power[hit].min() > 5 * dirty.instrument.noise_jy(6500)


def test_dead_antennas_carry_no_sky():
    tile = make_tile(sources=5, dead_antennas=2)
    assert sorted(tile.dead.values()) == ["noise", "zeros"]
    data = tile.subband(0)
    first, second = tile.instrument.baselines
    numbers = tile.instrument.antennas
    for antenna, kind in tile.dead.items():
        mine = (numbers[first] == antenna) | (numbers[second] == antenna)
        if kind == "zeros":
            assert np.all(data[:, mine] == 0)
    quiet = make_tile(sources=5, dead_antennas=2, noise=False)
    for antenna in quiet.dead:
        mine = (numbers[first] == antenna) | (numbers[second] == antenna)
        assert np.all(quiet.subband(0)[:, mine & cross(quiet)] == 0)
    assert np.count_nonzero(quiet.subband(0)) > 0


@pytest.mark.parametrize(("what", "test"), [("nan", np.isnan), ("zero", np.logical_not)])
def test_unfinished_last_integration(tmp_path, what, test):
    options = SimulationOptions(
        antennas=4, channels=2, integrations=3, sources=1, tiles=2, variables=False,
        dead_antennas=0, last_integration=what,
    )  # fmt: skip
    truth = simulation.simulate(options, tmp_path)
    for number, group in enumerate(truth.groups.values()):
        with h5py.File(truth.folder / group["files"][7]) as file:
            data = file["Data/visdata"][:].reshape(3, -1)
            samples = file["Data/nsamples"][:].reshape(3, -1)
        assert np.all(test(data[-1])) == (number == 1)
        assert not np.any(test(data[:-1]))
        if what == "nan" and number == 1:
            assert np.all(samples[-1] == 0)


def test_gaps_and_missing_subbands(tmp_path):
    options = SimulationOptions(
        antennas=3, channels=1, integrations=2, sources=0, tiles=3, variables=False,
        dead_antennas=0, gap_s=103.5, missing_subbands=2,
    )  # fmt: skip
    truth = simulation.simulate(options, tmp_path)
    starts = [g["start_mjd"] for g in truth.groups.values()]
    assert np.diff(starts) * 86400 == pytest.approx([309.2376, 412.7376], abs=1e-3)
    assert [len(g["files"]) for g in truth.groups.values()] == [16, 16, 14]
    assert len(list(truth.incoming.iterdir())) == 46
    assert len(list(truth.incoming.glob("*_sb15.hdf5"))) == 2


# ------------------------------------------------------------------------------------------ season


def test_variable_sources_and_their_truth(tmp_path):
    options = simulation.PRESETS["demo"]
    schedule = simulation.make_schedule(options)
    assert len(schedule.starts) == 3
    sky = simulation.make_sky(options, schedule)
    kinds = [s.kind for s in sky]
    assert kinds.count("ese") == kinds.count("flare") == kinds.count("calibrator") == 1
    assert 40 <= kinds.count("constant") <= 60
    ese, flare = (next(s for s in sky if s.kind == k) for k in ("ese", "flare"))
    nights = [starts[2] for starts in schedule.starts]
    assert [round(float(ese.factor(t)), 2) for t in nights] == [0.99, 0.45, 0.99]
    assert [round(float(flare.factor(t)), 2) for t in nights] == [1.01, 1.35, 1.01]
    assert abs(ese.flux_jy * ese.amplitude) > 3 * flare.flux_jy * flare.amplitude


def test_every_night_is_at_the_same_sidereal_time():
    schedule = simulation.make_schedule(SimulationOptions(nights=3, tiles=2))
    steps = np.diff([starts[0] for starts in schedule.starts]) * 86400
    assert steps == pytest.approx(86164.0905, abs=0.1)


def test_random_sources_follow_the_counts_and_keep_apart():
    options = SimulationOptions(
        sources=400, tiles=40, calibrator="", dec_deg=54.6, ra_deg=340.0, variables=False
    )
    schedule = simulation.make_schedule(options)
    sky = simulation.make_sky(options, schedule)
    flux = np.sort([s.flux_jy for s in sky])
    assert flux[0] >= 0.01
    assert flux[-1] <= 2
    assert np.sum(flux > 0.02) == pytest.approx(200, abs=40)
    ra = np.array([s.ra_deg for s in sky])
    assert np.all((ra >= 0) & (ra < 360))
    assert np.any(ra > 335)
    assert np.any(ra < 35)


def test_neighbours_share_the_calibrators_flux():
    options = SimulationOptions(sources=0, variables=False, neighbour_share=0.2)
    sky = simulation.make_sky(options, simulation.make_schedule(options))
    assert len(sky) == 4
    assert sum(s.flux_jy for s in sky[1:]) == pytest.approx(0.2 * sky[0].flux_jy)
    assert sky[0].flux(1.35e9, 0) == calibrators.find_calibrator("3C48").flux(1.35e9)


def test_products_of_a_simulation(tiny_night):
    catalog = catalogue.read_catalog(tiny_night.folder / "catalog.csv")
    assert len(catalog) == len(tiny_night.sky) == 17
    assert catalog.set_index("name").flux_jy["3C48"] == pytest.approx(16.26, abs=0.02)
    again = simulation.simulate(tiny_night.options, tiny_night.folder)
    assert again.sky == tiny_night.sky
    assert again.groups == tiny_night.groups
    assert again.dead == tiny_night.dead
    with pytest.raises(DataError, match="another simulation"):
        simulation.simulate(simulation.PRESETS["full"], tiny_night.folder)
    for name in tiny_night.groups:
        assert tiny_night.gains(name)["gains"].shape == (32, 64, 2)
        assert tiny_night.rfi(name).shape == (8, 64)


@pytest.mark.parametrize(
    ("changes", "message"), [({"date": "3 Feb"}, "date"), ({"calibrator": ""}, "dec_deg")]
)
def test_wrong_options(changes, message):
    with pytest.raises(ConfigError, match=message):
        simulation.make_schedule(SimulationOptions(**changes))


def test_command_line(tmp_path, capsys):
    from dsa110_contimg.cli import main

    small = ["--antennas", "4", "--channels", "1", "--integrations", "2", "--tiles", "1"]
    assert main(["simulate", str(tmp_path / "a"), "--preset", "test", "--progress", *small]) == 0
    assert "group 1 of 1" in capsys.readouterr().out
    assert len(list((tmp_path / "a/incoming").glob("*_sb??.hdf5"))) == 16
    assert main(["simulate", str(tmp_path / "a"), "--preset", "test"]) == 3
    assert "another simulation" in capsys.readouterr().err
