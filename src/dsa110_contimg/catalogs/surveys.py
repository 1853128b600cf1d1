"""Reference catalogues: from a CSV or from a survey by name, to one checked Parquet file.

A catalogue is of one survey. Surveys differ in frequency, resolution and flux scale, so a flux
statistic over two of them means nothing; `catalogs.read_catalog` refuses such a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import ConfigError, DataError, ToolError
from ..core.figures import CatalogFigures
from ..core.files import replacing
from ..core.sidecar import Sidecar
from .catalogue import DEFAULT_ALPHA, REFERENCE_HZ, UNITS, iau_name, read_catalog, read_csv

__all__ = ["SURVEYS", "build", "fetch", "make_catalogue", "write_catalog"]

#: Right ascension that is fetched at once, deg.
STEP_DEG = 10.0


@dataclass(frozen=True)
class Survey:
    """A survey as VizieR serves it.

    Attributes
    ----------
    table : str
        VizieR's name of the table.
    name, flux, error : str
        Columns; units come with the answer.
    freq_hz : float
        Frequency of its fluxes.
    dec_deg : (float, float)
        Declinations that it covers.
    filters : dict
        Rows that are wanted, in VizieR's words.
    reference : str
        Paper.
    """

    table: str
    name: str
    flux: str
    error: str
    freq_hz: float
    dec_deg: tuple[float, float]
    reference: str
    filters: dict[str, str] = field(default_factory=dict)


SURVEYS = {
    "nvss": Survey(
        *("VIII/65/nvss", "NVSS", "S1.4", "e_S1.4", 1.4e9),
        dec_deg=(-40, 90),
        reference="Condon et al. 1998, AJ 115, 1693",
    ),
    "first": Survey(
        *("VIII/92/first14", "FIRST", "Fint", "Rms", 1.4e9),
        dec_deg=(-11, 68),
        reference="Helfand et al. 2015, ApJ 801, 26",
    ),
    "racs": Survey(
        *("J/other/PASA/38.58/galcut", "Source", "Ftot", "e_Ftot", 887.5e6),
        dec_deg=(-80, 30),
        reference="Hale et al. 2021, PASA 38, 58",
    ),
    "vlass": Survey(
        *("J/ApJS/255/30/comp", "CompName", "Ftot", "e_Ftot", 3.0e9),
        dec_deg=(-40, 90),
        reference="Gordon et al. 2021, ApJS 255, 30",
        filters={"DupFlag": "<2", "QualFlag": "=0"},
    ),
}


def write_catalog(table: pd.DataFrame, target: Path) -> int:
    """Write a catalogue as Parquet with units, and check it by reading it back; return its length.

    Raises
    ------
    DataError
        As `catalogs.read_catalog`; the file is not written then.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(target) as temporary:
        rows = pa.Table.from_pandas(table, preserve_index=False)
        fields = [
            column.with_metadata({"unit": UNITS[column.name]}) if column.name in UNITS else column
            for column in rows.schema
        ]
        pq.write_table(rows.cast(pa.schema(fields)), temporary)
        try:
            return len(read_catalog(temporary))
        except DataError as error:
            raise DataError(str(error).replace(str(temporary), str(target))) from None


def build(source: Path, survey: str) -> pd.DataFrame:
    """Return the catalogue that a CSV holds.

    Fluxes may stand in ``flux_jy`` or ``flux_mjy``; anything else is refused, as in `read_catalog`.
    """
    table = read_csv(source)
    if {"flux_jy", "flux_mjy"} <= set(table.columns):
        raise DataError(f"{source}: both flux_jy and flux_mjy are there; keep one")
    if "flux_mjy" in table.columns:
        fluxes = pd.to_numeric(table.pop("flux_mjy"), errors="coerce")
        table["flux_jy"] = fluxes / 1000
    if "survey" not in table.columns and survey:
        table["survey"] = survey
    return table


def fetch(
    survey: str, dec_deg: tuple[float, float], ra_deg: tuple[float, float], cache: Path
) -> pd.DataFrame:
    """Return a strip of a survey from VizieR.

    Fluxes are carried to 1.4 GHz with a spectral index of -0.7, and kept as measured in
    ``flux_survey_jy`` at ``freq_survey_hz``. What was fetched before is taken from `cache`, so that
    a fetch that broke off goes on.

    Parameters
    ----------
    survey : str
        A key of `SURVEYS`.
    dec_deg, ra_deg : (float, float)
        Limits, deg; the first right ascension may exceed the second, across 0.
    cache : path
        Folder of the pieces.

    Raises
    ------
    ConfigError
        If the survey is not known or does not cover the declinations.
    ToolError
        If astroquery is not installed, or VizieR cannot be reached.
    """
    if survey not in SURVEYS:
        raise ConfigError(f"no survey {survey!r}; known: {', '.join(SURVEYS)}")
    known = SURVEYS[survey]
    if dec_deg[1] <= known.dec_deg[0] or dec_deg[0] >= known.dec_deg[1]:
        low, high = known.dec_deg
        raise ConfigError(f"{survey} covers declinations {low:g} to {high:g} deg only")
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for low, high in _pieces(*ra_deg):
        name = f"{survey}_{low:06.2f}_{high:06.2f}_{dec_deg[0]:+06.2f}_{dec_deg[1]:+06.2f}.parquet"
        path = cache / name
        if not path.exists():
            piece = _ask(survey, known, (low, high), dec_deg)
            with replacing(path) as temporary:
                piece.to_parquet(temporary)
        parts.append(pd.read_parquet(path))
    table = pd.concat(parts, ignore_index=True).drop_duplicates("name", ignore_index=True)
    if not len(table):
        raise DataError(f"{survey}: VizieR has no source there")
    return table.assign(
        flux_jy=table.flux_survey_jy * (REFERENCE_HZ / known.freq_hz) ** DEFAULT_ALPHA,
        alpha=DEFAULT_ALPHA,
        freq_survey_hz=known.freq_hz,
        survey=survey,
    )[["name", "ra_deg", "dec_deg", "flux_jy", "alpha", "flux_survey_jy", "flux_survey_err_jy",
       "freq_survey_hz", "survey"]]  # fmt: skip


def _pieces(first: float, last: float) -> Iterator[tuple[float, float]]:
    """Yield pieces of a range of right ascension."""
    if not (0 <= first <= 360 and 0 <= last <= 360 and first != last):
        raise ConfigError("right ascensions are two different numbers from 0 to 360 deg")
    spans = [(first, last)] if first < last else [(first, 360.0), (0.0, last)]
    for low, high in spans:
        edges = np.linspace(low, high, max(1, int(np.ceil((high - low) / STEP_DEG))) + 1)
        yield from ((float(a), float(b)) for a, b in pairwise(edges) if a < b)


def _ask(
    survey: str, known: Survey, ra_deg: tuple[float, float], dec_deg: tuple[float, float]
) -> pd.DataFrame:
    """Return one piece of a survey: names, positions, fluxes in Jy."""
    try:
        from astroquery.vizier import Vizier
    except ImportError:
        raise ToolError(
            "astroquery is not installed; 'pip install astroquery' (or the extra 'fetch'), "
            "or build the catalogue from a CSV with 'contimg catalog build'"
        ) from None
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    columns = [known.name, "_RAJ2000", "_DEJ2000", known.flux, known.error]
    vizier = Vizier(columns=columns, column_filters=dict(known.filters), row_limit=-1, timeout=300)
    # A box on the sky that holds the piece: its width is that of the parallel nearest the equator.
    nearest = 0.0 if dec_deg[0] < 0 < dec_deg[1] else min(map(abs, dec_deg))
    width = (ra_deg[1] - ra_deg[0]) * np.cos(np.deg2rad(nearest)) + 0.2
    middle = SkyCoord(np.mean(ra_deg) * u.deg, np.mean(dec_deg) * u.deg)
    try:
        found = vizier.query_region(
            middle, width=width * u.deg, height=(dec_deg[1] - dec_deg[0] + 0.2) * u.deg,
            catalog=known.table,
        )  # fmt: skip
    except Exception as error:  # whatever a client of the network may raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ToolError(
            f"{survey}: VizieR cannot be reached ({reason}); run this where there is a network and "
            "copy the file, or build the catalogue from a CSV with 'contimg catalog build'"
        ) from None
    names = ("name", "ra_deg", "dec_deg", "flux_survey_jy", "flux_survey_err_jy")
    if not len(found):
        return pd.DataFrame({name: [] for name in names}).astype({"name": str})
    rows = found[0]
    ra, dec = (np.ma.filled(rows[c].astype(float), np.nan) for c in columns[1:3])
    units = (u.Jy, u.Jy / u.beam)  # a peak is in Jy/beam
    flux, flux_err = (_in_jy(survey, rows[c], units) for c in columns[3:])
    table = pd.DataFrame(dict(zip(names, (rows[known.name], ra, dec, flux, flux_err), strict=True)))
    table["name"] = [
        f"{survey.upper()} {str(n).strip()}" if str(n).strip() not in ("", "--") else iau_name(a, d)
        for n, a, d in zip(table["name"], ra, dec, strict=True)
    ]
    inside = table.ra_deg.between(*ra_deg) & table.dec_deg.between(*dec_deg)
    return table[inside & (table.flux_survey_jy > 0)].reset_index(drop=True)


def _in_jy(survey: str, column: Any, units: Iterable[Any]) -> np.ndarray:
    """Return a column in Jy; one without a unit of flux density is refused."""
    for unit in units:
        if column.unit is not None and column.unit.is_equivalent(unit):
            return np.ma.filled(column.astype(float), np.nan) * column.unit.to(unit)
    raise DataError(
        f"{survey}: column {column.name} is in {column.unit or 'no unit'}, not in Jy or mJy; "
        "VizieR's table has changed: build the catalogue from a CSV instead"
    )


def make_catalogue(
    target: Path,
    table: pd.DataFrame,
    parameters: dict[str, Any],
    inputs: Sequence[Path] = (),
    reference: str = "",
) -> int:
    """Write a catalogue with its sidecar; return the number of sources.

    Parameters
    ----------
    target : Path
        File to write, ``*.parquet``.
    table : DataFrame
        As `build` or `fetch` returns it.
    parameters : dict
        How it was made.
    inputs : sequence of Path
        What it was made from.
    reference : str
        Publication of the survey.

    Raises
    ------
    ConfigError
        If the name does not end with ``.parquet``.
    """
    if target.suffix != ".parquet":
        raise ConfigError(f"{target}: the name of a catalogue ends with .parquet")
    count = write_catalog(table, target)
    sidecar = Sidecar(
        "catalog",
        inputs=list(inputs),
        parameters=parameters,
        figures=CatalogFigures(n_sources=count, flux_jy=table.flux_jy.sum()),
    )
    if reference:
        sidecar.tools["reference"] = reference
    sidecar.write(target)
    return count
