"""A results folder with every kind of product state, made in a moment without any tool.

Images are small but true FITS with a celestial WCS, tables of solutions are true CASA tables, and
photometry comes from the same sky as the images; a page built from it can be looked at.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsa110_contimg.core.figures import (
    FIGURES,
    ApplyFigures,
    CalibrateFigures,
    ConvertFigures,
    FlagStatistics,
    GroupFigures,
    ImageFigures,
    LightcurvesFigures,
    MedianOffset,
    MosaicFigures,
    PhotometryFigures,
    Pointing,
)
from dsa110_contimg.core.files import write_text
from dsa110_contimg.core.layout import Layout, companion
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.core.times import group_id, group_mjd
from dsa110_contimg.photometry.measure import COLUMNS
from dsa110_contimg.telescope.dsa110 import TILE_S
from support.figures import example

DEC_DEG = 16.1
FREQ_HZ = 1.405e9
BEAM_ARCSEC = 420.0  # wide, so that small images sample it
RMS_JY = 0.4e-3


@dataclass
class FakeResults:
    """Where things are, and what is true."""

    root: Path
    nights: list[str]
    groups: dict[str, list[str]]
    sources: list[dict]
    variable: str
    inventory: dict
    layout: Layout = field(init=False)

    def __post_init__(self):
        self.layout = Layout(self.root)


def make_sources(
    n: int, ra0: float, width: float, seed: int = 1, apart_deg: float = 0.25
) -> list[dict]:
    """Random sources along the strip, brightest first; no two nearer than `apart_deg`."""
    rng = np.random.default_rng(seed)
    sources: list[dict] = []
    while len(sources) < n:
        ra = (ra0 + rng.uniform(0, width)) % 360
        dec = DEC_DEG + rng.uniform(-1.2, 1.2)
        if all(np.hypot((ra - s["ra_deg"]), dec - s["dec_deg"]) > apart_deg for s in sources):
            sources.append({"ra_deg": ra, "dec_deg": dec})
    for source, flux in zip(sources, 1.2 * np.arange(1, n + 1) ** -1.1, strict=True):
        source["flux_jy"] = float(flux)
        source["name"] = f"J{source['ra_deg']:.4f}{source['dec_deg']:+.4f}"
        source["source_id"] = source["name"]
    return sources


def write_image(path, ra, dec, fluxes, pb, rms, shape, cell_deg, rng, beam_arcsec=BEAM_ARCSEC):
    """Gaussian sources times beam plus white noise, SIN projection."""
    from astropy.io import fits
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [ra, dec]
    ny, nx = shape
    wcs.wcs.crpix = [nx / 2 + 1, ny / 2 + 1]
    wcs.wcs.cdelt = [-cell_deg, cell_deg]
    yy, xx = np.mgrid[:ny, :nx]
    data = rng.normal(0, rms, shape)
    for source_ra, source_dec, flux in fluxes:
        x, y = wcs.wcs_world2pix(source_ra, source_dec, 0)
        if -9 < x < nx + 9 and -9 < y < ny + 9:
            sigma = beam_arcsec / 3600 / cell_deg / 2.355
            box = _around(x, y, 6 * sigma, shape)
            data[box] += flux * np.exp(-((xx[box] - x) ** 2 + (yy[box] - y) ** 2) / 2 / sigma**2)
    companions = {"rms": np.full(shape, rms), "weight": np.full(shape, rms**-2.0)}
    if pb:
        offset = np.hypot(xx - nx / 2, yy - ny / 2) * cell_deg
        beam = np.exp(-4 * np.log(2) * (offset / 2.7) ** 2)
        data = data + (beam - 1) * (data - rng.normal(0, rms, shape))
        companions = {"rms": companions["rms"], "pb": beam}
    header = wcs.to_header()
    header["BUNIT"] = "Jy/beam"
    header["BMAJ"] = header["BMIN"] = beam_arcsec / 3600
    header["BPA"], header["MJD-AVG"] = 0.0, 61061.9
    header["RESTFRQ"] = FREQ_HZ
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.writeto(path, data.astype(np.float32), header, overwrite=True)
    for kind, plane in companions.items():
        planes = [fits.PrimaryHDU(plane.astype(np.float32), header)]
        if kind == "weight":  # the map of the mean time follows
            planes.append(fits.ImageHDU(np.zeros(shape, np.float32), header))
        fits.HDUList(planes).writeto(companion(path, kind), overwrite=True)
    return wcs


def _around(x, y, radius, shape):
    """The pixels within a distance, and at least one."""
    low = [max(0, int(v - radius)) for v in (y, x)]
    high = [max(a + 1, int(v + radius) + 2) for a, v in zip(low, (y, x), strict=True)]
    return slice(low[0], high[0]), slice(low[1], high[1])


def write_failure(path: Path, rule: str, wildcards: dict, **changes) -> dict:
    """Write the record of a failed job, as the launcher does; return it."""
    record = {
        "rule": rule,
        "wildcards": wildcards,
        "cause": "compute",
        "state": "quarantined",
        "message": "WSClean was killed, perhaps for lack of memory",
        "log": f"logs/{rule}/{wildcards.get('night', 'all')}/{wildcards.get('group', 'all')}.log",
        "command": f"./contimg run {wildcards.get('group', '')} -- --forcerun {rule}",
        "attempts": 3,
        "first_utc": "2026-01-22T03:00:00+00:00",
        "last_utc": "2026-01-22T05:00:00+00:00",
        "fingerprint": "abc",
    } | changes
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def write_photometry(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def measure(sources, fluxes, ra, mjd, epoch, rms, rng, image, scale=1.0):
    """One row per source within 1.6 deg of the centre."""
    rows = []
    for source, flux in zip(sources, fluxes, strict=True):
        dra = (source["ra_deg"] - ra + 180) % 360 - 180
        offset = np.hypot(dra * np.cos(np.radians(DEC_DEG)), source["dec_deg"] - DEC_DEG)
        if offset > 1.6:
            continue
        pb = float(np.exp(-4 * np.log(2) * (offset / 2.7) ** 2))
        error = rms / pb
        got = scale * flux + rng.normal(0, error)
        detected = got > 5 * error
        rows.append(
            {
                "source_id": source["source_id"],
                "name": source["name"],
                "ra_deg": source["ra_deg"],
                "dec_deg": source["dec_deg"],
                "mjd": mjd,
                "group_or_epoch": epoch,
                "flux_jy": got,
                "flux_err_jy": error,
                "local_rms_jy": error,
                "snr": got / error,
                "upper_limit_jy": None if detected else 5 * error,
                "catalog_flux_jy": source["flux_jy"],
                "pb": pb,
                "flags": "",
                "image": image,
            }
        )
    return rows


def write_caltable(path: Path, kind: str, n_antennas: int, n_channels: int, mjd: float, rng):
    """A CASA calibration table with the columns and subtables that CASA itself writes."""
    from casacore import tables as ct

    column = "FPARAM" if kind == "kcal" else "CPARAM"
    channels = n_channels if kind == "bcal" else 1
    descs = [
        ct.makescacoldesc("TIME", 0.0),
        ct.makescacoldesc("ANTENNA1", 0),
        ct.makescacoldesc("SPECTRAL_WINDOW_ID", 0),
        ct.makearrcoldesc(column, 0.0 if kind == "kcal" else 0j, ndim=2),
        ct.makearrcoldesc("FLAG", False, ndim=2),
        ct.makearrcoldesc("SNR", 0.0, ndim=2),
    ]
    table = ct.table(str(path), ct.maketabdesc(descs), nrow=n_antennas, ack=False)
    freq = np.linspace(1.3114e9, 1.4986e9, channels)
    x = np.linspace(-1, 1, channels)
    values = np.empty((n_antennas, channels, 2), float if kind == "kcal" else complex)
    for a in range(n_antennas):
        for p in range(2):
            if kind == "kcal":
                values[a, :, p] = rng.normal(0, 3.0)
            else:
                amplitude = (
                    1 - 0.3 * x**6 + 0.03 * np.sin(5 * x + a) + rng.normal(0, 0.01, channels)
                )
                if kind == "gcal":
                    amplitude = 0.07 * (1 + 0.1 * rng.normal()) * np.ones(channels)
                phase = rng.uniform(-3, 3) * (kind == "gcal") + 0.3 * np.sin(3 * x + a)
                values[a, :, p] = amplitude * np.exp(1j * phase)
    flags = np.zeros((n_antennas, channels, 2), bool)
    flags[3] = True  # a dead antenna
    flags[:, channels // 5 : channels // 5 + channels // 30] = channels > 1  # interference
    table.putcol("TIME", np.full(n_antennas, mjd * 86400 + TILE_S / 2))
    table.putcol("ANTENNA1", np.arange(n_antennas, dtype=np.int32))
    table.putcol("SPECTRAL_WINDOW_ID", np.zeros(n_antennas, np.int32))
    table.putcol(column, values)
    table.putcol("FLAG", flags)
    table.putcol("SNR", np.where(flags, 0, rng.uniform(30, 150, flags.shape)))
    spw = ct.table(
        f"{path}/SPECTRAL_WINDOW",
        ct.maketabdesc([ct.makearrcoldesc("CHAN_FREQ", 0.0, ndim=1)]),
        nrow=1,
        ack=False,
    )
    spw.putcell("CHAN_FREQ", 0, freq)
    ant = ct.table(
        f"{path}/ANTENNA",
        ct.maketabdesc([ct.makescacoldesc("NAME", "")]),
        nrow=n_antennas,
        ack=False,
    )
    ant.putcol("NAME", [str(a + 1) for a in range(n_antennas)])
    table.putkeyword("SPECTRAL_WINDOW", spw)
    table.putkeyword("ANTENNA", ant)
    for t in (spw, ant, table):
        t.close()


def make_results(
    root: Path,
    n_nights: int = 2,
    n_tiles: int = 9,
    size: int = 120,
    n_sources: int = 60,
    faults: bool = True,
    start_mjd: float = 61061.91,
    tables: bool = True,
) -> FakeResults:
    """Write the folder.

    With `faults` the last night has, by tile number: 2 warn (noise), 3 fail (image gate), 4 missing
    image (the step crashed), 5 no calibration, 6 degraded group, and one group that still collects.
    """
    rng = np.random.default_rng(7)
    layout = Layout(root)
    ra0 = 340.0
    step_deg = TILE_S / 86164.1 * 360
    sources = make_sources(n_sources, ra0 - 1, n_tiles * step_deg + 2)
    variable = sources[min(6, n_sources - 1)]["source_id"]
    nights, groups, inventory = [], {}, {"groups": [], "rejected": []}
    history: list[dict] = []
    for k in range(n_nights):
        base = start_mjd + k * 0.99727
        factors = {s["source_id"]: 1.0 for s in sources}
        factors[variable] = 1.0 if k == 0 else 0.45 + 0.1 * k
        fluxes = [s["flux_jy"] * factors[s["source_id"]] for s in sources]
        ids = [group_id(base + i * TILE_S / 86400) for i in range(n_tiles)]
        night = f"{ids[0][:4]}-{ids[0][4:6]}-{ids[0][6:8]}"
        nights.append(night)
        groups[night] = ids
        bad = faults and k == n_nights - 1
        for i, gid in enumerate(ids):
            ra = (ra0 + i * step_deg) % 360
            state = "degraded" if bad and i == 6 else "complete"
            inventory["groups"].append(
                {
                    "id": gid,
                    "night": night,
                    "state": state,
                    "files": {str(s): f"in/{gid}_sb{s:02d}.hdf5" for s in range(16 - (i == 6))},
                    "start_mjd": group_mjd(gid),
                    "duration_s": TILE_S,
                    "n_integrations": 24,
                    "dec_app_deg": DEC_DEG,
                    "ra_deg": ra,
                    "dec_deg": DEC_DEG,
                    "reasons": ["sb15 is absent"] if state == "degraded" else [],
                }
            )
            _tile(layout, gid, i, ra, sources, fluxes, ids[0], bad, size, rng, tables)
        if bad:
            waiting = group_id(base + n_tiles * TILE_S / 86400)
            inventory["groups"].append(
                {"id": waiting, "night": night, "state": "collecting", "files": {}, "reasons": []}
            )
            inventory["rejected"].append(
                {"path": f"in/{night}T22:00:00_sb03.hdf5", "reason": "empty file"}
            )
        centre = (ra0 + (n_tiles - 1) / 2 * step_deg) % 360
        rows = []
        for s, f in zip(sources, fluxes, strict=True):
            rows += measure([s], [f], s["ra_deg"], base, night, RMS_JY, rng, "mosaic.fits", 1.01)
        mosaic = layout.night(night, "mosaic.fits")
        width = int((n_tiles * step_deg + 4) / 0.04)
        write_image(
            mosaic,
            centre,
            DEC_DEG,
            [(s["ra_deg"], s["dec_deg"], f) for s, f in zip(sources, fluxes, strict=True)],
            False,
            RMS_JY,
            (110, min(width, 1200)),
            0.04,
            rng,
        )
        card = Sidecar("mosaic", inputs=[layout.group(g, "image.fits") for g in ids[:2]])
        card.figures = example(MosaicFigures, n_tiles=n_tiles, area_deg2=40.0)
        card.timings_s = {"total": 12.0}
        card.write(mosaic)
        write_photometry(layout.night(night, "photometry.csv"), rows)
        card = Sidecar("photometry", inputs=[mosaic], timings_s={"total": 2.0})
        offsets = rng.normal((0.1, -0.2), 0.7, (50, 2)).round(3).tolist()
        astrometry = MedianOffset(
            n=50,
            ra_offset_arcsec=0.1,
            dec_offset_arcsec=-0.2,
            error_arcsec=0.1,
            brightest=[(east, north, 30 + i) for i, (east, north) in enumerate(offsets)],
        )
        card.figures = example(PhotometryFigures, astrometry=astrometry)
        card.write(layout.night(night, "photometry.csv"))
        history += rows
    _lightcurves(layout, history, variable)
    return FakeResults(root, nights, groups, sources, variable, inventory)


def make_flags(rng):
    """Flag statistics as the conversion writes them: interference, band edges, a dead antenna."""
    channel = np.clip(rng.normal(0.08, 0.01, 96), 0, 1)
    channel[19:22], channel[:2], channel[-2:] = 1.0, 0.5, 0.5
    antenna = {str(a + 1): round(float(rng.uniform(0.08, 0.2)), 3) for a in range(24)}
    antenna["4"] = 1.0
    return example(
        FlagStatistics,
        flagged_fraction=0.2,
        flagged_fraction_effective=channel.mean(),
        by_channel=[round(float(c), 3) for c in channel],
        by_antenna=antenna,
    )


def _tile(layout, gid, i, ra, sources, fluxes, first, bad, size, rng, tables):
    inputs: list[Path] = []

    def put(kind, figures, seconds=5.0, verdict="pass", reasons=(), content=None):
        product = layout.group(gid, kind)
        if not product.exists():
            write_text(product, content or "")
        (step,) = (name for name, model in FIGURES.items() if type(figures) is model)
        card = Sidecar(step, inputs=list(inputs[-1:]), timings_s={"total": seconds})
        card.figures = figures
        card.tools = {"wsclean": "3.1"} if step == "image" else {}
        card.verdict, card.reasons = verdict, list(reasons)
        card.write(product)
        inputs.append(product)

    n_subbands = 15 if bad and i == 6 else 16
    put("hdf5", example(GroupFigures, subbands=list(range(n_subbands))), 0.3)
    times = [group_mjd(gid) + (k + 0.5) * TILE_S / 24 / 86400 for k in range(24)]
    put(
        "ms",
        example(
            ConvertFigures,
            phase_centre_ra_deg=ra,
            phase_centre_dec_deg=DEC_DEG,
            dec_app_deg=DEC_DEG,
            flags=make_flags(rng),
            pointing=example(Pointing, time_mjd=times),
        ),
        30.0,
    )
    if i == 0:
        for kind in ("kcal", "bcal", "gcal"):
            path = layout.group(gid, kind)
            if tables:
                write_caltable(path, kind, 24, 96, group_mjd(gid), rng)
            else:
                path.mkdir()
            card = Sidecar("calibrate", inputs=inputs[:1], timings_s={"total": 15.0})
            card.figures = example(
                CalibrateFigures, calibrator="3C454.3", bcal_flagged=0.07, bcal_median_snr=88.0
            )
            card.write(path)
    chosen = None if bad and i == 5 else first
    write_text(
        layout.group(gid, "calibration.json"),
        json.dumps(
            {
                "target": gid,
                "candidates": [first],
                "calibrators": {first: "3C454.3"},
                "chosen": chosen,
                "borrowed": False,
                "reasons": [] if chosen else ["no calibration within 30 days"],
            }
        ),
    )
    if chosen is None:
        return
    put("cal.ms", example(ApplyFigures), 8.0)
    if bad and i == 4:
        return
    rms = RMS_JY * (3 if bad and i == 2 else 1)
    verdict, reasons = "pass", []
    if bad and i == 2:
        verdict, reasons = "warn", ["rms 1.2 mJy is 3.0 times thermal"]
    if bad and i == 3:
        verdict, reasons = "fail", ["dynamic range 12 is below 30"]
        rms *= 20
    image = layout.group(gid, "image.fits")
    sky = [(s["ra_deg"], s["dec_deg"], f) for s, f in zip(sources, fluxes, strict=True)]
    write_image(image, ra, DEC_DEG, sky, True, rms, (size, size), 4.0 / size, rng)
    put(
        "image.fits",
        example(
            ImageFigures,
            rms_jy=rms,
            thermal_rms_jy=0.25e-3,
            peak_jy=1.0,
            dynamic_range=1.0 / rms,
            beam_major_arcsec=BEAM_ARCSEC,
            beam_minor_arcsec=BEAM_ARCSEC,
            beam_pa_deg=0.0,
        ),
        35.0,
        verdict,
        reasons,
    )
    if verdict == "fail":
        return
    rows = measure(sources, fluxes, ra, group_mjd(gid), gid, rms, rng, image.name)
    write_photometry(layout.group(gid, "photometry.csv"), rows)
    put("photometry.csv", example(PhotometryFigures, n_sources=len(rows)), 1.5)


def _lightcurves(layout, rows, variable):
    import pandas as pd

    table = pd.DataFrame(rows).rename(columns={"group_or_epoch": "epoch"})
    folder = layout.lightcurves()
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "lightcurves.parquet")
    out = []
    for source, group in table.groupby("source_id"):
        s, w = group.flux_jy, 1 / group.flux_err_jy**2
        n = len(group)
        mean = (w * s).sum() / w.sum()
        eta = (w * (s - mean) ** 2).sum() / (n - 1) if n > 1 else 0.0
        out.append(
            {
                "source_id": source,
                "name": source,
                "ra_deg": group.ra_deg.iloc[0],
                "dec_deg": group.dec_deg.iloc[0],
                "n_meas": n,
                "wavg_flux_jy": mean,
                "eta": eta,
                "v": s.std() / s.mean() if n > 1 else 0.0,
            }
        )
    variability = pd.DataFrame(out).sort_values("eta", ascending=False)
    variability.to_csv(folder / "variability.csv", index=False)
    chosen = variability[(variability.eta > 2.5) & (variability.v > 0.1)].copy()
    chosen.insert(0, "rank", np.arange(1, len(chosen) + 1))
    chosen.to_csv(folder / "candidates.csv", index=False)
    figures = example(LightcurvesFigures)
    card = Sidecar("lightcurves", figures=figures, timings_s={"total": 3.0})
    card.parameters = {"eta_threshold": 2.5, "v_threshold": 0.1}
    card.write(folder / "lightcurves.parquet")
