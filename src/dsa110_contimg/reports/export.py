"""Exports for other tools: VOTable, ObsCore, MOC, DS9 regions.

All come from the same tables and headers as the rest of the results; nothing is measured here.
Fluxes are in Jy and positions in degrees (ICRS) throughout.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.escape import region_text
from ..core.figures import MosaicFigures
from ..core.files import replacing, write_text
from ..core.layout import companion
from ..core.times import DAY_S, NIGHT, group_mjd
from ..photometry import measure
from ..telescope.dsa110 import (
    C_M_S,
    CHANNEL_WIDTH_HZ,
    N_CHANNELS_SUBBAND,
    N_SUBBANDS,
    NAME,
    TILE_S,
    TOP_CHANNEL_HZ,
)
from .judge import figures_of, read_photometry, read_record

__all__ = ["export", "moc_cells", "obscore_rows", "regions", "votable", "write_moc"]

#: Column -> (unit, UCD, meaning). UCD1+ words of the IVOA's list.
COLUMNS: dict[str, tuple[str, str, str]] = {
    "source_id": ("", "meta.id;meta.main", "name in the reference catalogue"),
    "name": ("", "meta.id", "IAU style name"),
    "ra_deg": ("deg", "pos.eq.ra;meta.main", "right ascension, ICRS"),
    "dec_deg": ("deg", "pos.eq.dec;meta.main", "declination, ICRS"),
    "mjd": ("d", "time.epoch", "mean time of the data, MJD (UTC)"),
    "group_or_epoch": ("", "meta.id;obs", "group id of a tile, night or hour of a mosaic"),
    "flux_jy": ("Jy", "phot.flux.density;em.radio.750-1500MHz", "flux, primary beam corrected"),
    "flux_err_jy": (
        "Jy",
        "stat.error;phot.flux.density;em.radio.750-1500MHz",
        "standard error of the flux",
    ),
    "local_rms_jy": ("Jy", "instr.det.noise", "local noise, primary beam corrected"),
    "snr": ("", "stat.snr", "flux over its error"),
    "upper_limit_jy": (
        "Jy",
        "phot.flux.density;em.radio.750-1500MHz;stat.max",
        "upper limit where not detected",
    ),
    "catalog_flux_jy": (
        "Jy",
        "phot.flux.density;em.radio.750-1500MHz",
        "flux in the reference catalogue, at the image's frequency",
    ),
    "pb": (
        "",
        "arith.factor;instr.beam",
        "primary beam response, or relative sensitivity of a mosaic",
    ),
    "flags": ("", "meta.code.qual", "words; empty for a good measurement"),
    "image": ("", "meta.ref;meta.file", "image it was measured on"),
    "rank": ("", "meta.number", "rank of a candidate"),
    "n_meas": ("", "meta.number", "measurements in the statistics"),
    "n_detected": ("", "meta.number", "detections among them"),
    "mean_flux_jy": ("Jy", "phot.flux.density;stat.mean", "mean flux"),
    "wavg_flux_jy": ("Jy", "phot.flux.density;stat.mean", "weighted mean flux"),
    "wavg_flux_err_jy": ("Jy", "stat.error;phot.flux.density", "error of the weighted mean"),
    "min_flux_jy": ("Jy", "phot.flux.density;stat.min", "least flux"),
    "max_flux_jy": ("Jy", "phot.flux.density;stat.max", "greatest flux"),
    "max_snr": ("", "stat.snr;stat.max", "greatest signal-to-noise ratio"),
    "eta": ("", "stat.fit.chi2;src.var", "reduced chi-squared about the weighted mean"),
    "v": ("", "stat.stdev;src.var", "standard deviation over mean"),
    "chi2_reduced": ("", "stat.fit.chi2", "the same with statistical errors alone"),
    "vs_max": ("", "stat.snr;src.var", "greatest significance of a pair of measurements"),
    "vs": ("", "stat.snr;src.var", "significance of the pair with the greatest modulation"),
    "m": ("", "src.var.index", "modulation of that pair"),
    "template": ("", "meta.code.class", "template that the light curve follows best: ese, flare"),
    "template_score": ("", "stat.snr", "its significance"),
    "template_amplitude": ("", "src.var.amplitude", "its amplitude, fraction of the flux"),
    "template_mjd": ("d", "time.epoch", "its centre, MJD (UTC)"),
    "template_width_days": ("d", "time.duration", "its width"),
    "log10_false_alarm": ("", "stat.probability", "log10 of the probability of no variation"),
}
_TEXT = ("source_id", "name", "group_or_epoch", "flags", "image", "template")


def votable(rows: list[dict[str, Any]], title: str, names: Iterable[str] | None = None) -> bytes:
    """Return rows as a VOTable with units, UCDs and descriptions.

    Parameters
    ----------
    rows : list of dict
        Blank numbers are None.
    title : str
        What the table is.
    names : iterable of str, optional
        Columns, in order; those of the first row when absent.
    """
    from astropy.table import MaskedColumn, Table

    table = Table(meta={"name": re.sub(r"\W+", "_", title)})
    for name in names or (rows[0] if rows else ()):
        unit, _, meaning = COLUMNS.get(name, ("", "", name))
        values = [row.get(name) for row in rows]
        if name in _TEXT or any(isinstance(v, str) and v for v in values):
            column = MaskedColumn([str(v or "") for v in values], dtype=str)
        else:
            blank = [not isinstance(v, int | float) for v in values]
            data = [float(v) if isinstance(v, int | float) else 0.0 for v in values]
            column = MaskedColumn(data, mask=blank, dtype=float, unit=unit or None)
        column.description = meaning
        table[name] = column
    return _votable_bytes(table, title, {n: COLUMNS[n][1] for n in table.colnames if n in COLUMNS})


def _votable_bytes(table: Any, title: str, ucds: dict[str, str], utypes: Any = None) -> bytes:
    from astropy.io.votable import from_table

    file = from_table(table)
    file.description = title
    for field in file.get_first_table().fields:
        field.ucd = ucds.get(field.name)
        if utypes and field.name in utypes:
            field.utype = utypes[field.name]
    stream = io.BytesIO()
    file.to_xml(stream)
    return stream.getvalue()


# --- ObsCore --------------------------------------------------------------------------------------

#: Mandatory columns of ObsCore 1.1 -> (unit, UCD, UType below obscore:).
OBSCORE: dict[str, tuple[str, str, str]] = {
    "dataproduct_type": ("", "meta.id", "ObsDataset.dataProductType"),
    "calib_level": ("", "meta.code;obs.calib", "ObsDataset.calibLevel"),
    "obs_collection": ("", "meta.id", "DataID.collection"),
    "obs_id": ("", "meta.id", "DataID.observationID"),
    "obs_publisher_did": ("", "meta.ref.uri;meta.curation", "Curation.publisherDID"),
    "access_url": ("", "meta.ref.url", "Access.reference"),
    "access_format": ("", "meta.code.mime", "Access.format"),
    "access_estsize": ("kbyte", "phys.size;meta.file", "Access.size"),
    "target_name": ("", "meta.id;src", "Target.name"),
    "s_ra": (
        "deg",
        "pos.eq.ra",
        "Char.SpatialAxis.Coverage.Location.Coord.Position2D.Value2.C1",
    ),
    "s_dec": (
        "deg",
        "pos.eq.dec",
        "Char.SpatialAxis.Coverage.Location.Coord.Position2D.Value2.C2",
    ),
    "s_fov": ("deg", "phys.angSize;instr.fov", "Char.SpatialAxis.Coverage.Bounds.Extent.diameter"),
    "s_region": ("", "pos.outline;obs.field", "Char.SpatialAxis.Coverage.Support.Area"),
    "s_resolution": ("arcsec", "pos.angResolution", "Char.SpatialAxis.Resolution.Refval.value"),
    "s_xel1": ("", "meta.number", "Char.SpatialAxis.numBins1"),
    "s_xel2": ("", "meta.number", "Char.SpatialAxis.numBins2"),
    "t_min": ("d", "time.start;obs.exposure", "Char.TimeAxis.Coverage.Bounds.Limits.StartTime"),
    "t_max": ("d", "time.end;obs.exposure", "Char.TimeAxis.Coverage.Bounds.Limits.StopTime"),
    "t_exptime": (
        "s",
        "time.duration;obs.exposure",
        "Char.TimeAxis.Coverage.Support.Extent",
    ),
    "t_resolution": ("s", "time.resolution", "Char.TimeAxis.Resolution.Refval.value"),
    "t_xel": ("", "meta.number", "Char.TimeAxis.numBins"),
    "em_min": ("m", "em.wl;stat.min", "Char.SpectralAxis.Coverage.Bounds.Limits.LoLimit"),
    "em_max": ("m", "em.wl;stat.max", "Char.SpectralAxis.Coverage.Bounds.Limits.HiLimit"),
    "em_res_power": (
        "",
        "spect.resolution",
        "Char.SpectralAxis.Resolution.ResolPower.refVal",
    ),
    "em_xel": ("", "meta.number", "Char.SpectralAxis.numBins"),
    "o_ucd": ("", "meta.ucd", "Char.ObservableAxis.ucd"),
    "pol_states": ("", "meta.code;phys.polarization", "Char.PolarizationAxis.stateList"),
    "pol_xel": ("", "meta.number", "Char.PolarizationAxis.numBins"),
    "facility_name": ("", "meta.id;instr.tel", "Provenance.ObsConfig.Facility.name"),
    "instrument_name": ("", "meta.id;instr", "Provenance.ObsConfig.Instrument.name"),
}
_INTEGERS = ("calib_level", "s_xel1", "s_xel2", "t_xel", "em_xel", "pol_xel")
_WORDS = (
    *("dataproduct_type", "obs_collection", "obs_id", "obs_publisher_did", "access_url"),
    *("access_format", "target_name", "s_region", "o_ucd", "pol_states"),
    *("facility_name", "instrument_name"),
)
#: Edges of the band, Hz.
_HIGH_HZ = TOP_CHANNEL_HZ + CHANNEL_WIDTH_HZ / 2
_LOW_HZ = _HIGH_HZ - N_SUBBANDS * N_CHANNELS_SUBBAND * CHANNEL_WIDTH_HZ


def obscore_rows(results: Path) -> Iterator[dict[str, Any]]:
    """Yield an ObsCore record for every image and mosaic that did not fail its gate."""
    for path in sorted(results.glob("nights/*/groups/*/*.image.fits")):
        group = path.parent.name
        start = group_mjd(group)
        yield from _records(results, path, group, 2, start, start + TILE_S / DAY_S, TILE_S)
    for path in sorted(results.glob("nights/*/mosaic*.fits")):
        if path.name.count(".") > 1:  # a weight or rms map
            continue
        figures = figures_of(read_record(path), MosaicFigures)
        times = [tile.mjd for tile in figures.tiles] if figures else []
        half = TILE_S / 2 / DAY_S
        first = min(times) - half if times else None
        last = max(times) + half if times else None
        name = f"{path.parent.name}/{path.stem}"
        yield from _records(results, path, name, 3, first, last, len(times) * TILE_S)


def _records(
    results: Path, path: Path, name: str, level: int, start: Any, end: Any, exposure: float
) -> Iterator[dict[str, Any]]:
    """Yield one record for each image of a FITS file."""
    from ..maps import planes as map_planes

    record = read_record(path)
    if record is None or record.verdict == "fail":
        return
    planes = map_planes.read_planes(path)
    short = path.relative_to(results)
    for number, plane in enumerate(planes):
        ny, nx = plane.data.shape
        wcs = plane.wcs()
        ra, dec = (float(v) for v in wcs.pixel_to_world_values((nx - 1) / 2, (ny - 1) / 2))
        corners = wcs.pixel_to_world_values(
            [-0.5, -0.5, nx - 0.5, nx - 0.5], [-0.5, ny - 0.5, ny - 0.5, -0.5]
        )
        part = f"#{number}" if len(planes) > 1 else ""
        yield {
            "dataproduct_type": "image",
            "calib_level": level,
            "obs_collection": f"{NAME} continuum",
            "obs_id": name + part,
            "obs_publisher_did": f"ivo://dsa110.contimg/{short}{part}",
            "access_url": path.resolve().as_uri(),
            "access_format": "image/fits",
            "access_estsize": round(path.stat().st_size / 1000),
            "target_name": "",
            "s_ra": ra % 360,
            "s_dec": dec,
            "s_fov": float(np.hypot(*(np.abs(wcs.wcs.cdelt) * (nx, ny)))),
            "s_region": "POLYGON ICRS "
            + " ".join(f"{a % 360:.6f} {d:.6f}" for a, d in zip(*corners, strict=True)),
            "s_resolution": 3600 * plane.header.get("BMAJ", np.nan),
            "s_xel1": nx,
            "s_xel2": ny,
            "t_min": start,
            "t_max": end,
            "t_exptime": exposure,
            "t_resolution": exposure,
            "t_xel": 1,
            "em_min": C_M_S / _HIGH_HZ,
            "em_max": C_M_S / _LOW_HZ,
            "em_res_power": (_HIGH_HZ + _LOW_HZ) / 2 / (_HIGH_HZ - _LOW_HZ),
            "em_xel": 1,
            "o_ucd": "phot.flux.density;em.radio.750-1500MHz",
            "pol_states": "/I/",
            "pol_xel": 1,
            "facility_name": NAME,
            "instrument_name": NAME,
        }


def obscore(rows: list[dict[str, Any]]) -> bytes:
    """Return ObsCore records as a VOTable."""
    from astropy.table import MaskedColumn, Table

    table = Table()
    for name, (unit, _, _) in OBSCORE.items():
        values = [row[name] for row in rows]
        if name in _INTEGERS:
            table[name] = MaskedColumn([int(v) for v in values], dtype=np.int64)
        elif name in _WORDS:
            table[name] = MaskedColumn(values, dtype=str)
        else:
            blank = [v is None or not np.isfinite(v) for v in values]
            data = [0.0 if b else v for v, b in zip(values, blank, strict=True)]
            table[name] = MaskedColumn(data, mask=blank, dtype=float, unit=unit or None)
    return _votable_bytes(
        table,
        "ObsCore records of images and mosaics",
        {n: ucd for n, (_, ucd, _) in OBSCORE.items()},
        {n: f"obscore:{utype}" for n, (_, _, utype) in OBSCORE.items()},
    )


# --- coverage -------------------------------------------------------------------------------------

#: Order of the finest cells of a coverage map: 1.7 arcmin.
MOC_ORDER = 11


def moc_cells(weights: Iterable[Any], order: int = MOC_ORDER) -> np.ndarray:
    """Return the HEALPix cells (nested, ICRS) whose centres have weight.

    Parameters
    ----------
    weights : iterable of Plane
        Weight maps; zero or NaN is no coverage.
    order : int
        HEALPix order.

    Notes
    -----
    Counting centres makes the area right on average; counting touched cells would add half a cell
    along every edge.
    """
    from astropy_healpix import HEALPix

    healpix = HEALPix(nside=2**order, order="nested")
    cell_deg = np.degrees(np.sqrt(4 * np.pi / healpix.npix))
    found = [np.empty(0, np.int64)]
    for plane in weights:
        wcs = plane.wcs()
        ny, nx = plane.data.shape
        step = max(1, int(cell_deg / 3 / np.abs(wcs.wcs.cdelt).max()))
        x, y = np.meshgrid(np.arange(0, nx + step, step), np.arange(0, ny + step, step))
        cells = _cells_at(healpix, *wcs.pixel_to_world_values(x.ravel(), y.ravel()))
        lon, lat = healpix.healpix_to_lonlat(cells)
        column, row = wcs.world_to_pixel_values(lon.deg, lat.deg)
        known = np.isfinite(column) & np.isfinite(row)
        column, row = (np.rint(np.where(known, v, -1)).astype(int) for v in (column, row))
        inside = known & (column >= 0) & (row >= 0) & (column < nx) & (row < ny)
        kept = cells[inside]
        values = plane.data[row[inside], column[inside]]
        found.append(kept[np.isfinite(values) & (values > 0)])
    return np.unique(np.concatenate(found))


def _cells_at(healpix: Any, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    import astropy.units as u

    known = np.isfinite(lon) & np.isfinite(lat)
    return np.unique(healpix.lonlat_to_healpix(lon[known] * u.deg, lat[known] * u.deg))


def write_moc(cells: np.ndarray, path: Path, order: int = MOC_ORDER) -> None:
    """Write cells as a MOC in FITS (IVOA MOC, cells numbered as readers of version 1 know them)."""
    from mocpy import MOC

    moc = MOC.from_healpix_cells(cells.astype(np.uint64), np.uint8(order), np.uint8(order))
    with replacing(path) as temporary:
        moc.save(temporary, v1_compatible=True)


# --- regions --------------------------------------------------------------------------------------


def regions(rows: list[dict[str, Any]], candidates: set[str], radius_arcsec: float = 60.0) -> str:
    """Return DS9 regions: detections solid, limits dashed, candidates heavy and named."""
    lines = ["# Region file format: DS9 version 4.1", "global color=cyan width=1", "icrs"]
    for row in rows:
        if row["flux_jy"] is None:
            continue
        circle = f'circle({row["ra_deg"]:.6f},{row["dec_deg"]:.6f},{radius_arcsec:g}")'
        if row["source_id"] in candidates:
            lines.append(f"{circle} # color=magenta width=3 text={{{region_text(row['name'])}}}")
        elif row["upper_limit_jy"] is not None:
            lines.append(f"{circle} # color=red dash=1")
        else:
            lines.append(circle)
    return "\n".join(lines) + "\n"


# --- all of it ------------------------------------------------------------------------------------


def export(results: Path, out: Path) -> list[Path]:
    """Write every export of every night.

    Parameters
    ----------
    results : Path
        Results folder.
    out : Path
        Folder to write to: ``obscore.vot``, ``sources.vot``, and for each night
        ``<night>.vot``, ``<night>.reg`` and ``<night>.moc.fits``.

    Returns
    -------
    list of Path
        What was written.
    """
    from ..maps import planes as map_planes
    from .pages import read_table

    results, out = Path(results), Path(out)
    nights = sorted(p for p in (results / "nights").glob("*") if re.fullmatch(NIGHT, p.name))
    if not nights:
        raise DataError(f"{results}: no nights in it; give the results folder")
    written: list[Path] = []

    def put(name: str, content: bytes | str) -> None:
        target = out / name
        if isinstance(content, str):
            write_text(target, content)
        else:
            with replacing(target) as temporary:
                temporary.write_bytes(content)
        written.append(target)

    put("obscore.vot", obscore(list(obscore_rows(results))))
    variability = read_table(results / "lightcurves" / "variability.csv")
    if variability:
        put("sources.vot", votable(variability, "variability of all sources"))
    chosen = {r["source_id"] for r in read_table(results / "lightcurves" / "candidates.csv")}
    for folder in nights:
        night = folder.name
        if (folder / "photometry.csv").exists():
            rows = read_photometry(folder / "photometry.csv")
            put(f"{night}.vot", votable(rows, f"measurements of {night}", measure.COLUMNS))
            put(f"{night}.reg", regions(rows, chosen))
        weight = companion(folder / "mosaic.fits", "weight")
        if weight.exists():
            maps = map_planes.read_planes(weight)[::2]  # each is followed by the map of mean times
            write_moc(moc_cells(maps), out / f"{night}.moc.fits")
            written.append(out / f"{night}.moc.fits")
    return written
