"""Light curves: all nights on one flux scale, measures of variability, ranked candidates.

Epochs differ in flux scale by more than sources vary. So each epoch's scale is fitted to the
ensemble of steady sources before anything is compared, variable ones clipped, and what the fit
cannot tell stays in the errors as a systematic floor. Every measurement is kept, detected or not.

The product is a function of the set of nights, whatever the order in which they came. What an
update computes is kept (`store`), under a key of all that it depends on; the next update
computes what has no key there.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..core.code import source_hash
from ..core.errors import DataError
from ..core.figures import EpochFigures, LightcurvesFigures, PhotometryFigures
from ..core.files import replacing
from ..core.options import LightcurveOptions
from ..core.sidecar import Sidecar, read_sidecar, sidecar_path
from ..core.tables import read_csv
from .flux_scale import BLOCK, REFERENCE_N, REFERENCE_SNR, no_reference, solve_block
from .store import Night, Store, digest
from .variability import SteadySample, add_templates, candidates, match, variability, windows

__all__ = ["DICTIONARY", "assemble", "make_lightcurves", "read_night", "update", "variability"]

#: Columns of ``lightcurves.parquet``: type, unit, name in the VAST pipeline's tables, meaning.
DICTIONARY: dict[str, tuple[str, str, str, str]] = {
    "source_id": ("string", "", "source", "identity: the catalogue's name, the same in all nights"),
    "name": ("string", "", "name", "IAU name of the catalogue position, JHHMMSS.s+DDMMSS"),
    "ra_deg": ("double", "deg", "ra", "catalogue right ascension, ICRS"),
    "dec_deg": ("double", "deg", "dec", "catalogue declination, ICRS"),
    "mjd": ("double", "d", "time", "mean time of the measurement, UTC"),
    "epoch": ("string", "", "epoch", "night, or group of a tile"),
    "flux_jy": ("double", "Jy", "flux_peak", "flux on the common scale"),
    "flux_err_jy": ("double", "Jy", "flux_peak_err", "its error, systematic floor included"),
    "flux_raw_jy": ("double", "Jy", "", "flux as measured; flux_jy = flux_raw_jy / flux_scale"),
    "flux_raw_err_jy": ("double", "Jy", "", "its statistical error"),
    "flux_scale": ("double", "", "", "flux scale of the epoch relative to the ensemble"),
    "flux_scale_err": ("double", "", "", "its error"),
    "local_rms_jy": ("double", "Jy", "local_rms", "noise around the source, common scale"),
    "snr": ("double", "", "snr", "flux_raw_jy / flux_raw_err_jy"),
    "upper_limit_jy": ("double", "Jy", "", "upper limit, common scale; blank for a detection"),
    "catalog_flux_jy": ("double", "Jy", "", "catalogue flux at the image's frequency"),
    "pb": ("double", "", "", "primary beam, or relative sensitivity of a mosaic"),
    "forced": ("bool", "", "forced", "measured at a known position (always true)"),
    "used": ("bool", "", "", "enters the statistics"),
    "flags": ("string", "", "flag", "words of the photometry, and 'rejected' for a failed epoch"),
    "image": ("string", "", "image", "image that was measured, from the folder of this table"),
    "image_sha256": ("string", "", "", "its checksum"),
    "image_version": ("string", "", "", "release that made it, and when (UTC)"),
}

#: What light curves take from the record of a night.
_RECORDED = ("epoch", "image", "image_sha256", "image_version")

#: Flags of measurements that do not count.
UNUSED_FLAGS = ("edge", "blank", "rejected")
#: Columns of a photometry table that are kept.
_KEPT = (
    *("source_id", "name", "ra_deg", "dec_deg", "mjd", "epoch", "flux_jy", "flux_err_jy"),
    *("local_rms_jy", "snr", "upper_limit_jy", "catalog_flux_jy", "pb", "flags", "used"),
)


# --- nights ---------------------------------------------------------------------------------------


def read_night(path: Path, folder: Path) -> Night:
    """Read a photometry table and its sidecar.

    Rows of a table whose photometry failed carry the flag ``rejected``; ``used`` tells which rows
    enter the statistics.

    Raises
    ------
    DataError
        If the table cannot be read.
    """
    key = _key(path)
    try:
        points = read_csv(path)
        words = points["flags"]
        record = read_sidecar(path, PhotometryFigures)
        failed = record.verdict == "fail"
        if failed:
            words = (words + "|rejected").str.strip("|")
        blocked = words.str.split("|").map(lambda each: not set(each).isdisjoint(UNUSED_FLAGS))
        used = np.isfinite(points.flux_jy) & (points.flux_err_jy > 0) & ~blocked.astype(bool)
        points = points.assign(flags=words, epoch=points.group_or_epoch, used=used)
        image = points.image.iloc[0] if len(points) else ""
        points = points[list(_KEPT)]
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a photometry table ({error}); remake it") from None
    figures, table = record.figures, _relative(path, folder)
    offset, anchor = figures.astrometry, figures.flux_anchor
    known = {
        "epoch": points.epoch.iloc[0] if len(points) else "",
        "mjd": float(points.mjd.median()) if len(points) else 0.0,
        "table": table,
        "rejected": failed,
        "image": _relative(Path(path).parent / image, folder),
        "image_sha256": figures.image_sha256,
        "image_version": figures.image_version,
        "correction": figures.correction.plain(),
        "steady": anchor.steady if anchor else None,
        "RAOFF_arcsec": offset.ra_offset_arcsec if offset else None,
        "DECOFF_arcsec": offset.dec_offset_arcsec if offset else None,
        "offset_error_arcsec": offset.error_arcsec if offset else None,
    }
    return Night(table, key, known, points)


def _key(path: Path) -> str:
    """Return what changes when a table is made again."""
    try:
        found = [os.stat(p) for p in (path, sidecar_path(path))]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; remake the night's photometry") from None
    return digest([(s.st_size, s.st_mtime_ns) for s in found])


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def update(store: Store, paths: Iterable[Path], folder: Path) -> int:
    """Bring a store up to date with the nights' tables; return how many were read.

    Raises
    ------
    DataError
        If a table cannot be read, or if two are of one epoch.
    """
    held, wanted = store.nights(), {_relative(p, folder): Path(p) for p in paths}
    new = [p for name, p in sorted(wanted.items()) if name not in held or held[name].key != _key(p)]
    renewed = {_relative(p, folder) for p in new}
    gone = [night for name, night in held.items() if name not in wanted or name in renewed]
    store.replace(gone, (read_night(path, folder) for path in new))
    epochs = Counter(night.record["epoch"] for night in store.nights().values())
    epochs.pop("", None)  # tables without a row
    twice = [epoch for epoch, count in sorted(epochs.items()) if count > 1]
    if twice:
        raise DataError(f"epoch {twice[0]} is in more than one photometry table; give one")
    return len(new)


# --- light curves ---------------------------------------------------------------------------------


class Assembled(NamedTuple):
    """The epochs with their flux scales, the number of measurements, and of trials of templates."""

    epochs: list[EpochFigures]
    n_measurements: int
    template_trials: float


def assemble(
    store: Store, options: LightcurveOptions, write: Callable[[pd.DataFrame], None]
) -> tuple[pd.DataFrame, Assembled]:
    """Make light curves and measures of variability of all sources.

    Parameters
    ----------
    store : Store
        Measurements, and interim results that need not be computed again.
    options : LightcurveOptions
        ``systematic_floor`` is used.
    write : callable
        Called with the light curves of each piece of sky, as in `DICTIONARY`.

    Returns
    -------
    measures : DataFrame
        One row a source, as `variability` and `add_templates` return them.
    assembled : Assembled
    """
    nights = [night for night in store.nights().values() if night.record["epoch"]]
    nights.sort(key=lambda night: (night.record["mjd"], night.record["epoch"]))
    scales = _scales(store, nights, options.systematic_floor)
    state = {
        night.record["epoch"]: (night.key, *scales.loc[night.record["epoch"]]) for night in nights
    }
    good = [night.record for night in nights if not night.record["rejected"]]
    looks = windows(pd.Series({r["epoch"]: r["mjd"] for r in good}, dtype=float))
    keys = [digest([(e, state[e]) for e in window.epochs]) for window in looks]
    kept = [store.recall("match", w.epochs[0], k) for w, k in zip(looks, keys, strict=True)]
    matches = {i: found for i, found in enumerate(kept) if found is not None}
    stale: dict[int, tuple[list[pd.DataFrame], SteadySample]] = {
        i: ([], SteadySample()) for i, found in enumerate(kept) if found is None
    }
    images = pd.DataFrame([night.record for night in nights], columns=_RECORDED).set_index("epoch")
    measures, n_points = [], 0
    for cell, points in store.cells():
        curves = _corrected(points, scales, images)
        n_points += len(curves)
        write(curves)
        measures.append(_measures(store, cell, curves, state))
        sources = pd.Index(measures[-1].source_id)
        for i, (found, sample) in stale.items():
            found.append(match(curves, sources, looks[i]))
            sample.add(curves, sources, looks[i])
    for i, (found, sample) in stale.items():
        matches[i] = pd.concat(found).dropna(subset="template_score")
        matches[i]["trials"] = sample.trials(looks[i])
        store.keep("match", looks[i].epochs[0], keys[i], matches[i])
    of_windows = [matches[i] for i in range(len(looks))]
    store.forget("match", [window.epochs[0] for window in looks])
    trials = float(sum(found.trials.max() for found in of_windows if len(found)))
    table = pd.concat(measures or [variability(_no_curves())], ignore_index=True)
    twice = table.source_id[table.source_id.duplicated()]
    if len(twice):
        raise DataError(
            f"source {twice.iloc[0]!r} lies in different places in different nights; "
            "remake the photometry tables with one catalogue"
        )
    table = add_templates(table, [found.drop(columns="trials") for found in of_windows], trials)
    epochs = [
        EpochFigures(**night.record, **_entry(scales.loc[night.record["epoch"]]))
        for night in nights
    ]
    return table, Assembled(epochs, n_points, trials)


def _no_curves() -> pd.DataFrame:
    """Return light curves of no source, with the columns of `DICTIONARY`."""
    types = {"string": str, "double": float, "bool": bool}
    columns = {name: pd.Series(dtype=types[kind]) for name, (kind, *_) in DICTIONARY.items()}
    return pd.DataFrame(columns)


def _entry(scale: pd.Series) -> dict:
    return {
        "flux_scale": float(scale.scale),
        "flux_scale_error": float(scale.scale_error),
        "systematic": float(scale.systematic),
        "n_reference": int(scale.n_reference),
        "n_candidates": int(scale.n_candidates),
    }


def _scales(store: Store, nights: list[Night], floor: float) -> pd.DataFrame:
    """Return the flux scales of all epochs, from blocks that were solved before or are now."""
    epochs = [night.record["epoch"] for night in nights]
    nothing = pd.Series(
        {"scale": 1.0, "scale_error": 0.0, "systematic": floor, "n_reference": 0, "n_candidates": 0}
    )
    scales = pd.DataFrame([nothing] * len(epochs), index=pd.Index(epochs, dtype=str))
    good = [night for night in nights if not night.record["rejected"]]
    reference, key = no_reference(), ""
    for number, start in enumerate(range(0, len(good), BLOCK)):
        block = good[start : start + BLOCK]
        key = digest(key, [(night.record["epoch"], night.key) for night in block], floor)
        found = store.recall("scales", number, key)
        frozen = store.recall("reference", number, key)
        if found is None or frozen is None:
            names = [night.record["epoch"] for night in block]
            table = store.epochs(names, {night.month for night in block})
            found, frozen = solve_block(table, names, reference, floor)
            store.keep("scales", number, key, found)
            store.keep("reference", number, key, frozen)
        scales.loc[found.index] = found
        reference = frozen
    return scales


def _corrected(points: pd.DataFrame, scales: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Return measurements on the common scale, with the columns of `DICTIONARY`."""
    code, epochs = pd.factorize(points.epoch)
    per_epoch = scales.loc[epochs]
    scale, error, systematic = (
        per_epoch[column].to_numpy()[code] for column in ("scale", "scale_error", "systematic")
    )
    flux = points.flux_jy / scale
    relative = np.hypot(error / scale, systematic)
    made_by = {
        column: pd.Categorical.from_codes(*_categories(images.loc[epochs, column], code))
        for column in ("image", "image_sha256", "image_version")
    }
    return points.assign(
        flux_raw_jy=points.flux_jy,
        flux_raw_err_jy=points.flux_err_jy,
        flux_scale=scale,
        flux_scale_err=error,
        flux_jy=flux,
        flux_err_jy=np.hypot(points.flux_err_jy / scale, flux * relative),
        local_rms_jy=points.local_rms_jy / scale,
        upper_limit_jy=points.upper_limit_jy / scale,
        forced=True,
        **made_by,
    )


def _categories(values: pd.Series, code: np.ndarray) -> tuple[np.ndarray, pd.Index]:
    """Return codes and categories of one value for each epoch, spread over measurements."""
    own, categories = pd.factorize(values)
    return own[code], categories


def _measures(store: Store, cell: int, curves: pd.DataFrame, state: dict) -> pd.DataFrame:
    """Return the measures of variability of a piece of sky."""
    key = digest([(epoch, state[epoch]) for epoch in sorted(curves.epoch.unique())])
    found = store.recall("measures", cell, key)
    if found is None:
        found = variability(curves)
        store.keep("measures", cell, key, found)
    return found


# --- products -------------------------------------------------------------------------------------


@contextmanager
def curve_writer(target: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Give a function that appends to ``lightcurves.parquet``, one row group a call.

    Units and meanings are in the metadata of its columns.
    """
    types = {"string": pa.string(), "double": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema(
        [
            pa.field(name, types[kind], metadata={"unit": unit, "vast_name": vast, "meaning": text})
            for name, (kind, unit, vast, text) in DICTIONARY.items()
        ],
        metadata={"dictionary": json.dumps({k: v[3] for k, v in DICTIONARY.items()})},
    )

    def append(curves: pd.DataFrame) -> None:
        rows = pa.Table.from_pandas(curves[list(DICTIONARY)], schema, preserve_index=False)
        writer.write_table(rows.replace_schema_metadata(schema.metadata))

    with replacing(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        yield append


def make_lightcurves(folder: Path, tables: Sequence[Path], options: LightcurveOptions) -> Sidecar:
    """Combine photometry tables and write light curves, variability and candidates.

    Parameters
    ----------
    folder : Path
        Where the products go: ``lightcurves.parquet``, ``variability.csv``, ``candidates.csv``.
    tables : sequence of Path
        Photometry of the nights, in any order.
    options : LightcurveOptions
        Limits.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "lightcurves.parquet"
    store = Store(folder / ".lightcurves.sqlite", digest(source_hash("lightcurves.assemble")))
    try:
        n_read = update(store, tables, folder)
        with curve_writer(target) as write:
            measures, assembled = assemble(store, options, write)
        store.commit()
    finally:
        store.close()
    ranked = candidates(measures, options)
    epochs = assembled.epochs
    sidecar = Sidecar(
        "lightcurves",
        inputs=list(tables),
        parameters=options.model_dump(),
        figures=LightcurvesFigures(
            n_epochs=len(epochs),
            n_sources=len(measures),
            n_candidates=len(ranked),
            n_tables_read=n_read,
            **assembled._asdict(),
        ),
    )
    if not epochs:
        sidecar.warn("no photometry table has a row: there are no light curves")
    judged = [e for e in epochs if not e.rejected]
    if any(e.n_reference < REFERENCE_N for e in judged):
        sidecar.warn(
            f"an epoch has fewer than {REFERENCE_N} steady sources above {REFERENCE_SNR:g} sigma: "
            "its flux scale is taken as it is"
        )
    for entry in judged:
        if entry.n_reference < entry.n_candidates / 2:
            sidecar.warn(f"{entry.epoch}: more than half of the reference sources seem variable")
    if varying := [e.epoch for e in judged if e.steady is False]:
        sidecar.warn(f"{', '.join(varying)}: calibrated on what is not known to be steady")
    for name, content in (("variability.csv", measures), ("candidates.csv", ranked)):
        with replacing(folder / name) as temporary:
            content.to_csv(temporary, index=False, float_format="%.7g")
    sidecar.timings_s = {"total": time.monotonic() - started}
    sidecar.write(target, [folder / "variability.csv", folder / "candidates.csv"])
    return sidecar
