"""Figures of the report: each function takes numbers and returns an image as a data URI.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; marks and
line styles differ as well, so that a page printed in grey still reads. No function reads a file,
and none keeps state (figures are made without pyplot).
"""

from __future__ import annotations

import base64
import io
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..calibration.tables import SolutionCube
from ..core import robust
from ..core.figures import FlagStatistics
from ..core.times import clock_of
from ..maps.planes import Plane
from ..telescope.dsa110 import TILE_S

__all__ = [
    "BLUE",
    "COLOURS",
    "GREY",
    "KNEE_SIGMA",
    "ORANGE",
    "antenna_axis",
    "astrometry",
    "blank_jpeg",
    "completeness",
    "cutout",
    "flags",
    "flux_scale",
    "gain_history",
    "image_uri",
    "jpeg",
    "light_curve",
    "middle_and_sigma",
    "new_figure",
    "noise",
    "png",
    "png_uri",
    "shrink",
    "solution_figures",
    "stretch",
    "style",
    "trends",
    "variability_plane",
]

BLUE, ORANGE, RED, GREEN, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#767676",
)


#: Colour and mark of each state of a tile.
COLOURS = {"pass": BLUE, "warn": ORANGE, "fail": RED, "missing": PURPLE, "waiting": GREY}


MARKS = {"pass": "o", "warn": "^", "fail": "X", "missing": "s", "waiting": "d"}


_STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def style() -> AbstractContextManager[None]:
    """Return a context in which figures have the house style."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **kwargs: Any
) -> tuple[Any, Any]:
    """Return a figure without pyplot and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def png_uri(figure: Any, dpi: int = 110, colour_map: bool = False) -> str:
    """Return a figure as a PNG data URI; one with a colour map keeps every colour."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    content = stream.getvalue()
    return _data_uri(content if colour_map else _palette(content), "png")


def _palette(png: bytes) -> bytes:
    """Return a plot with 128 colours, which takes a third of the bytes."""
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(128).save(stream, "PNG", optimize=False)
    return stream.getvalue()


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def shrink(data: np.ndarray, size: int) -> np.ndarray:
    """Return an image whose longer side is at most about `size`, by the maximum of square blocks.

    The maximum keeps point sources that a mean or a stride would lose. Blank blocks stay blank.
    """
    step = max(1, -(-max(data.shape) // size))
    ny, nx = (n // step * step for n in data.shape)
    if step == 1:
        return np.asarray(data, dtype=np.float32)
    rows = np.fmax.reduce(data[:ny].reshape(ny // step, step, -1), axis=1)
    columns = rows[:, :nx].reshape(ny // step, nx // step, step)
    return np.fmax.reduce(columns, axis=2).astype(np.float32)


#: Grey scale in robust standard deviations: white, black at least, and where asinh turns over.
WHITE_SIGMA, BLACK_SIGMA, KNEE_SIGMA = -2.0, 60.0, 4.0


def middle_and_sigma(data: np.ndarray) -> tuple[float, float]:
    """Return median and robust standard deviation (from the MAD) of some 100,000 pixels."""
    step = max(1, int(np.sqrt(data.size / 100_000)))
    sample = data[::step, ::step]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1e-9
    middle = float(np.median(sample))
    return middle, float(robust.sigma(sample, middle)) or 1e-9


def stretch(data: np.ndarray, noise: tuple[float, float]) -> tuple[np.ndarray, float, float]:
    """Return grey values (uint8, dark is bright sky, blank is 235) and the flux of both ends.

    asinh between 2 robust standard deviations below the median and the larger of 60 above it and
    the 99.8th percentile: noise stays visible, as a light texture, beside bright sources.

    Parameters
    ----------
    data : (ny, nx) array
        What to draw.
    noise : (float, float)
        Median and standard deviation that set the scale: `middle_and_sigma` of the full image.
    """
    if not np.isfinite(data).any():
        return np.full(data.shape, 235, np.uint8), 0.0, 0.0
    middle, sigma = noise
    low = middle + WHITE_SIGMA * sigma
    high = max(middle + BLACK_SIGMA * sigma, float(np.nanpercentile(data, 99.8)))
    knee = KNEE_SIGMA * sigma
    bottom, top = np.arcsinh((low - middle) / knee), np.arcsinh((high - middle) / knee)
    with np.errstate(invalid="ignore"):
        scaled = np.arcsinh((np.clip(data, low, high) - middle) / knee)
        grey = 255 - (scaled - bottom) / (top - bottom) * 255
    return np.where(np.isfinite(data), grey, 235).astype(np.uint8), low, high


def jpeg(
    data: np.ndarray, noise: tuple[float, float] | None = None, quality: int = 82
) -> tuple[bytes, float, float]:
    """Return an image as JPEG, north up and east left, with the fluxes of white and black.

    `noise` is as for `stretch`; of the data themselves where it is absent.
    """
    from PIL import Image

    grey, low, high = stretch(data, noise or middle_and_sigma(data))
    stream = io.BytesIO()
    Image.fromarray(grey[::-1]).save(stream, "JPEG", quality=quality)
    return stream.getvalue(), low, high


def blank_jpeg(size: int = 8) -> bytes:
    """Return a grey square as JPEG: the picture of a tile that cannot be read."""
    return jpeg(np.full((size, size), np.nan))[0]


def image_uri(content: bytes) -> str:
    """Return JPEG bytes as a data URI."""
    return _data_uri(content, "jpeg")


def png(content: bytes) -> str:
    """Return PNG bytes as a data URI."""
    return _data_uri(content, "png")


def cutout(plane: Plane, ra_deg: float, dec_deg: float, half: int = 24) -> np.ndarray | None:
    """Return the square of pixels about a position; None where it leaves the image or is blank."""
    x, y = plane.wcs().world_to_pixel_values(ra_deg, dec_deg)
    if not (np.isfinite(x) and np.isfinite(y)):
        return None
    x, y = round(float(x)), round(float(y))
    ny, nx = plane.data.shape
    if x < half or y < half or x >= nx - half or y >= ny - half:
        return None
    part = np.asarray(plane.data[y - half : y + half + 1, x - half : x + half + 1], np.float32)
    return part if np.isfinite(part).mean() > 0.5 else None


# --- calibration ----------------------------------------------------------------------------------


def _outliers(values: np.ma.MaskedArray, most: int = 5) -> list[int]:
    """Return the antennas whose median departs most from that of all, beyond 6 robust sigma."""
    medians = np.ma.median(values.reshape(len(values), -1), axis=1)
    off = np.ma.abs(medians - np.ma.median(medians))
    limit = 6 * max(robust.MAD_TO_SIGMA * float(np.ma.median(off)), 1e-3)
    far = [i for i in np.argsort(-off.filled(-1)) if off.filled(-1)[i] > limit]
    return [int(i) for i in far[:most]]


def _lines(axis: Any, x: np.ndarray, curves: np.ma.MaskedArray, names: list[str]) -> None:
    """Draw a thin line per antenna, the median in black, and name those that stand out."""
    from matplotlib.collections import LineCollection

    drawn = curves.filled(np.nan)
    axis.add_collection(
        LineCollection(
            [np.column_stack([x, c]) for c in drawn], colors="#9a9a9a", linewidths=0.4, alpha=0.6
        )
    )
    styles = zip((RED, BLUE, GREEN, PURPLE, ORANGE), ("-", "--", "-.", ":", "-"), strict=True)
    for i, (colour, style) in zip(_outliers(curves), styles, strict=False):
        axis.plot(x, drawn[i], color=colour, ls=style, lw=1.1, label=f"antenna {names[i]}")
    axis.plot(x, np.ma.median(curves, axis=0).filled(np.nan), color="black", lw=1.4, label="median")
    axis.autoscale_view()
    axis.legend(loc="best", ncols=2)


def named_ticks(axis: Any, names: list[str], most: int) -> None:
    """Name the places 0, 1, 2, ... of an axis (``axes.xaxis``, ``axes.yaxis``), at most so many."""
    ticks = range(0, len(names), max(1, -(-len(names) // most)))
    axis.set_ticks(list(ticks), [names[i] for i in ticks])


def antenna_axis(axis: Any, names: list[str], most: int = 24) -> None:
    """Label an axis (``axes.xaxis``, ``axes.yaxis``) with antennas; ``DSA-`` is said once."""
    prefixed = all(name.startswith("DSA-") for name in names)
    named_ticks(axis, [name.removeprefix("DSA-") for name in names] if prefixed else names, most)
    axis.set_label_text("antenna (DSA-)" if prefixed else "antenna")


def _steady_limits(axis: Any, curves: np.ma.MaskedArray, least: float) -> None:
    """Limit the vertical axis to what nearly all antennas do; single outliers leave the frame."""
    sample = curves.compressed()
    if sample.size:
        low, high = np.percentile(sample, [0.5, 99.5])
        margin = max(0.25 * (high - low), least)
        axis.set_ylim(low - margin, high + margin)


def bandpass(solutions: SolutionCube) -> str:
    """Draw amplitude and phase of a bandpass against frequency, all antennas over one another."""
    ghz = solutions.freq_hz / 1e9
    values = solutions.values[0]
    figure, axes = new_figure(
        10.5, 5.2, 2, values.shape[-1], sharex=True, sharey="row", squeeze=False
    )
    for pol, (upper, lower) in enumerate(axes.T):
        amplitude = np.ma.abs(values[..., pol])
        _lines(upper, ghz, amplitude, solutions.antennas)
        _steady_limits(upper, amplitude, 0.02)
        phase = np.ma.masked_array(
            np.degrees(np.angle(values[..., pol].filled(0))), np.ma.getmaskarray(values[..., pol])
        )
        _lines(lower, ghz, phase, solutions.antennas)
        _steady_limits(lower, phase, 2.0)
        upper.set_title(f"polarisation {'XY'[pol]}" if pol < 2 else f"polarisation {pol}")
        lower.set_xlabel("frequency (GHz)")
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("phase (deg)")
    return png_uri(figure)


def bandpass_map(solutions: SolutionCube) -> str:
    """Draw a bandpass as antenna against frequency; flagged solutions are hatched."""
    values = solutions.values[0]
    extent = (solutions.freq_hz[0] / 1e9, solutions.freq_hz[-1] / 1e9, len(values) - 0.5, -0.5)
    figure, axes = new_figure(10.5, 1.6 + 0.035 * len(values), 1, 2, sharey=True)
    mean = np.ma.mean(np.ma.abs(values), axis=-1)
    mean = mean / np.ma.median(mean)
    total = values.sum(axis=-1)
    phase = np.ma.masked_array(np.degrees(np.angle(total.filled(0))), np.ma.getmaskarray(total))
    for axis, data, label in (
        (axes[0], mean, "amplitude / median"),
        (axes[1], phase, "phase (deg)"),
    ):
        axis.grid(False)
        axis.set_facecolor("#eeeeee")
        axis.patch.set(hatch="xxx", edgecolor="#bbbbbb")
        sample = data.compressed()
        low, high = np.percentile(sample, [1, 99]) if sample.size else (0, 1)
        shown = axis.imshow(
            data,
            aspect="auto",
            extent=extent,
            cmap="cividis",
            vmin=low,
            vmax=high,
            interpolation="nearest",
        )
        figure.colorbar(shown, ax=axis, label=label, pad=0.01)
        axis.set_xlabel("frequency (GHz)")
    antenna_axis(axes[0].yaxis, solutions.antennas, 12)
    return png_uri(figure, colour_map=True)


def bandpass_panels(solutions: SolutionCube, columns: int = 8) -> str:
    """Draw a small panel for every antenna: amplitude (X dark, Y light line) and phase."""
    from matplotlib.collections import LineCollection

    values = solutions.values[0]
    step = max(1, values.shape[1] // 128)
    values = values[:, ::step]
    n = len(values)
    rows = -(-n // columns)
    figure, axis = new_figure(11, 0.85 * rows)
    axis.set_axis_off()
    amplitude = np.ma.abs(values)
    phase = np.degrees(np.angle(values.filled(0)))
    reach = float(np.percentile(amplitude.compressed(), 99.5)) if amplitude.count() else 1.0
    x = np.linspace(0, 0.9, values.shape[1])
    frames = []
    bars: dict[str, list[np.ndarray]] = {BLUE: [], ORANGE: [], "#222222": [], "#999999": []}
    for i in range(n):
        left, base = i % columns, -(i // columns)
        for y0, y1 in ((0.42, 0.8), (0.02, 0.38)):
            box = [(0, y0), (0.9, y0), (0.9, y1), (0, y1), (0, y0)]
            frames.append([(left + u, base + v) for u, v in box])
        for pol in range(min(2, values.shape[2])):
            blank = np.ma.getmaskarray(values)[i, :, pol]
            up = 0.42 + 0.38 * np.clip(amplitude[i, :, pol].filled(0) / (1.15 * reach), 0, 1)
            down = 0.02 + 0.36 * (phase[i, :, pol] + 180) / 360
            for y, colour in ((up, (BLUE, ORANGE)[pol]), (down, ("#222222", "#999999")[pol])):
                curve = np.column_stack([left + x, base + np.where(blank, np.nan, y)])
                bars[colour].append(curve)
        dead = np.ma.getmaskarray(values)[i].all()
        axis.text(
            left,
            base + 0.82,
            solutions.antennas[i] + (" — no solutions" if dead else ""),
            fontsize=7,
            color=RED if dead else "black",
            va="bottom",
        )
    axis.add_collection(LineCollection(frames, colors="#cccccc", linewidths=0.5))
    for colour, curves in bars.items():
        axis.add_collection(LineCollection(curves, colors=colour, linewidths=0.8))
    axis.set(xlim=(-0.05, columns), ylim=(-rows + 0.95, 1.02))
    return png_uri(figure, dpi=105)


def gains(solutions: SolutionCube) -> str:
    """Draw amplitude and phase of gains, per antenna (one interval) or against time (several)."""
    values = solutions.values[:, :, 0]
    figure, (upper, lower) = new_figure(10.5, 4.2, 2, 1, sharex=True)
    x = np.arange(values.shape[1])
    for pol in range(min(2, values.shape[2])):
        mark = {"marker": ("o", "x")[pol], "color": (BLUE, ORANGE)[pol], "ms": 3.5, "ls": "none"}
        middle = np.ma.median(np.ma.abs(values[..., pol]), axis=0)
        upper.plot(x, middle.filled(np.nan), **mark, label=f"polarisation {'XY'[pol]}")
        mean = values[..., pol].mean(axis=0)
        lower.plot(x, np.degrees(np.angle(mean.filled(np.nan))), **mark)
        if len(values) > 1:
            amplitude = np.ma.abs(values[..., pol])
            upper.vlines(
                x, amplitude.min(axis=0), amplitude.max(axis=0), color=mark["color"], lw=0.6
            )
    dead = np.flatnonzero(np.ma.getmaskarray(values).all(axis=(0, 2)))
    if dead.size:
        upper.plot(dead, np.zeros(dead.size), "v", color=RED, ms=5, label="no solution")
    upper.set_ylim(bottom=0)
    upper.set_ylabel("gain amplitude")
    lower.set(ylim=(-190, 190), yticks=[-180, -90, 0, 90, 180], ylabel="phase (deg)")
    antenna_axis(lower.xaxis, solutions.antennas)
    upper.legend(ncols=3, loc="lower right")
    return png_uri(figure)


def delays(solutions: SolutionCube) -> str:
    """Draw delays per antenna, ns."""
    values = np.ma.median(solutions.values[:, :, 0], axis=0)
    figure, axis = new_figure(10.5, 2.4)
    x = np.arange(len(values))
    for pol in range(min(2, values.shape[1])):
        axis.plot(
            x,
            values[:, pol].filled(np.nan),
            marker=("o", "x")[pol],
            color=(BLUE, ORANGE)[pol],
            ls="none",
            ms=3.5,
            label=f"polarisation {'XY'[pol]}",
        )
    antenna_axis(axis.xaxis, solutions.antennas)
    axis.set_ylabel("delay (ns)")
    axis.legend(ncols=2)
    return png_uri(figure)


def solution_figures(kind: str, solutions: SolutionCube) -> list[dict[str, str]]:
    """Return the figures of a table: title, data URI, whether it starts folded."""
    if solutions.values.count() == 0:
        return []
    if kind == "kcal":
        return [{"title": "Delays", "uri": delays(solutions)}]
    if kind == "gcal":
        return [{"title": "Gains", "uri": gains(solutions)}]
    return [
        {"title": "Bandpass, all antennas", "uri": bandpass(solutions)},
        {
            "title": "Bandpass by antenna and frequency (hatched: flagged)",
            "uri": bandpass_map(solutions),
        },
        {
            "title": "Bandpass of each antenna: amplitude (blue X, orange Y) above "
            "phase from −180 to 180 deg (black X, grey Y)",
            "uri": bandpass_panels(solutions),
            "folded": "yes",
        },
    ]


def flags(statistics: dict[str, FlagStatistics | None]) -> str | None:
    """Draw the share of flagged visibilities: tiles down, frequency and antennas across.

    Parameters
    ----------
    statistics : dict
        Group id -> flag statistics of its conversion; None for a tile that was not converted.
    """
    known = [s for s in statistics.values() if s and s.by_antenna]
    if not known:
        return None
    channels = max(len(s.by_channel) for s in known)
    antennas = list(dict.fromkeys(name for s in known for name in s.by_antenna))
    by_channel = np.full((len(statistics), channels), np.nan)
    by_antenna = np.full((len(statistics), len(antennas)), np.nan)
    for i, s in enumerate(statistics.values()):
        if s and s.by_antenna:
            by_channel[i, : len(s.by_channel)] = s.by_channel
            by_antenna[i] = [s.by_antenna.get(name, np.nan) for name in antennas]
    height = 1.4 + min(5, 0.16 * len(statistics))
    figure, axes = new_figure(10.5, height, 1, 2, sharey=True)
    for axis, data, label in ((axes[0], by_channel, "channel"), (axes[1], by_antenna, "antenna")):
        axis.grid(False)
        axis.patch.set(hatch="xxx", edgecolor="#bbbbbb", facecolor="#eeeeee")
        shown = axis.imshow(
            np.ma.masked_invalid(100 * data),
            aspect="auto",
            cmap="cividis",
            vmin=0,
            vmax=100,
            interpolation="nearest",
        )
        axis.set_xlabel(label)
    antenna_axis(axes[1].xaxis, antennas, 10)
    named_ticks(axes[0].yaxis, [clock_of(g)[:5] for g in statistics], 12)
    axes[0].set_ylabel("tile (UTC)")
    figure.colorbar(shown, ax=axes, label="flagged (%)", pad=0.01)
    return png_uri(figure, colour_map=True)


# --- the night ------------------------------------------------------------------------------------


def noise(tiles: list[dict]) -> str | None:
    """Draw measured and thermal noise of the tiles against time."""
    measured = [t for t in tiles if t["rms_jy"]]
    if not measured:
        return None
    figure, axis = new_figure(10.5, 2.8)
    for state, colour in COLOURS.items():
        chosen = [t for t in measured if t["state"] == state]
        if chosen:
            hours = [_hour(t["start_mjd"]) for t in chosen]
            flux = [1e3 * t["rms_jy"] for t in chosen]
            axis.plot(
                hours, flux, MARKS[state], color=colour, ls="none", ms=5, label=f"tiles: {state}"
            )
    thermal = [t for t in measured if t["thermal_jy"]]
    if thermal:
        hours = [_hour(t["start_mjd"]) for t in thermal]
        axis.plot(
            hours,
            [1e3 * t["thermal_jy"] for t in thermal],
            "_",
            color="black",
            ms=9,
            mew=1.5,
            label="thermal",
        )
    axis.set(xlabel="UTC", ylabel="noise (mJy/beam)")
    axis.locator_params(axis="x", nbins=7, steps=[1, 2, 2.5, 5, 10])
    axis.xaxis.set_major_formatter(
        lambda h, _: f"{int(h % 24):02d}:{int(h * 60 % 60):02d}:{round(h * 3600 % 60):02d}"
    )
    _flux_axis(axis)
    axis.legend(ncols=2)
    return png_uri(figure)


def _flux_axis(axis: Any) -> None:
    """Make an axis of fluxes logarithmic where they span more than a decade, else begin at zero."""
    low, high = axis.dataLim.intervaly
    if low <= 0 or high < 10 * low:
        axis.set_ylim(bottom=0)
        return
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.yaxis.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "25" else "")


def _hour(mjd: float) -> float:
    return ((mjd + TILE_S / 172800) % 1) * 24


def flux_scale(rows: list[dict], gate: float) -> str | None:
    """Draw measured over catalogue flux: against flux, and over the sky."""
    used = [r for r in rows if (r["snr"] or 0) >= 5 and (r["catalog_flux_jy"] or 0) > 0]
    if not used:
        return None
    flux = np.array([r["catalog_flux_jy"] for r in used]) * 1e3
    ratio = np.array([r["flux_jy"] / r["catalog_flux_jy"] for r in used])
    error = np.array([(r["flux_err_jy"] or np.nan) / r["catalog_flux_jy"] for r in used])
    figure, (left, right) = new_figure(10.5, 3.6, 1, 2, width_ratios=(1, 1.25))
    left.axhspan(1 - gate, 1 + gate, color=BLUE, alpha=0.12, lw=0, label=f"gate ±{gate:.0%}")
    left.axhline(1, color="black", lw=0.8)
    reach = max(2 * gate, min(1.0, float(np.percentile(np.abs(ratio - 1), 97)) * 1.3))
    inside = np.abs(ratio - 1) <= reach
    left.errorbar(
        flux[inside],
        ratio[inside],
        error[inside],
        fmt="o",
        ms=3,
        lw=0.6,
        color=BLUE,
        ecolor="#9a9a9a",
    )
    for mark, out, y in (("^", ratio > 1 + reach, 1 + reach), ("v", ratio < 1 - reach, 1 - reach)):
        if out.any():
            left.plot(flux[out], np.full(out.sum(), y), mark, color=RED, ms=6, clip_on=False)
    left.axhline(
        np.median(ratio), color=RED, ls="--", lw=1.2, label=f"median {np.median(ratio):.3f}"
    )
    left.set(xscale="log", ylim=(1 - reach, 1 + reach))
    left.set(xlabel="catalogue flux (mJy)", ylabel="measured / catalogue")
    left.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    left.legend(loc="lower right")

    ra, dec = unwrap_ra([r["ra_deg"] for r in used]), np.array([r["dec_deg"] for r in used])
    off = np.clip(ratio - 1, -reach, reach)
    for sign, mark, words in ((1, "^", "above"), (-1, "v", "below")):
        chosen = np.sign(off + 1e-12) == sign
        shown = right.scatter(
            ra[chosen],
            dec[chosen],
            c=100 * off[chosen],
            marker=mark,
            s=14 + 60 * np.minimum(flux[chosen] / np.percentile(flux, 95), 1),
            cmap="PuOr",
            vmin=-100 * reach,
            vmax=100 * reach,
            edgecolors="#444444",
            linewidths=0.5,
            label=f"{words} catalogue",
        )
    figure.colorbar(shown, ax=right, label="measured − catalogue (%)", pad=0.01)
    right.invert_xaxis()
    right.xaxis.set_major_formatter(lambda v, _: f"{v % 360:g}")
    right.set(xlabel="RA (deg)", ylabel="Dec (deg)")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)
    return png_uri(figure, colour_map=True)


def unwrap_ra(ra_deg: Any) -> np.ndarray:
    """Return right ascensions without the jump at 0/360, near their circular mean."""
    ra = np.asarray(ra_deg, float)
    middle = np.degrees(np.angle(np.exp(1j * np.radians(ra)).mean())) % 360
    return middle + (ra - middle + 180) % 360 - 180


def completeness(rows: list[dict]) -> str | None:
    """Draw the share of catalogue sources detected at 5 sigma against what was to be expected."""
    used = [
        r for r in rows if r["catalog_flux_jy"] and r["local_rms_jy"] and r["flux_jy"] is not None
    ]
    if not used:
        return None
    expected = np.array([r["catalog_flux_jy"] / r["local_rms_jy"] for r in used])
    seen = np.array([r["flux_jy"] >= 5 * r["local_rms_jy"] for r in used])
    edges = np.array([0, 3, 5, 7, 10, 20, 50, np.inf])
    labels = ["< 3", "3–5", "5–7", "7–10", "10–20", "20–50", "> 50"]
    which = np.digitize(expected, edges) - 1
    total = np.bincount(which, minlength=len(labels))
    found = np.bincount(which, weights=seen, minlength=len(labels))
    figure, axis = new_figure(3.6, 3)
    x = np.arange(len(labels))
    share = np.divide(found, total, out=np.zeros(len(x)), where=total > 0)
    axis.bar(x, share, color=BLUE, width=0.7)
    for i in range(len(x)):
        axis.text(i, share[i] + 0.02, f"{int(found[i])}/{total[i]}", ha="center", fontsize=7)
    axis.axvline(3.5, color="black", ls="--", lw=0.8)
    axis.set_xticks(x, labels, fontsize=7)
    axis.set(ylim=(0, 1.12), xlabel="catalogue flux / local noise", ylabel="share detected")
    return png_uri(figure)


def astrometry(sources: list[list[float]]) -> str | None:
    """Draw offsets of positions from the catalogue.

    Parameters
    ----------
    sources : (n, 3) list
        Measured minus catalogue, RA cos(dec) and Dec, arcsec; signal-to-noise ratio: larger marks
        are brighter sources.
    """
    if not len(sources):
        return None
    offsets, snr = np.array(sources, float)[:, :2], np.array(sources, float)[:, 2]
    figure, axis = new_figure(3.6, 3)
    axis.scatter(
        *offsets.T, s=6 + 30 * np.minimum(snr / np.percentile(snr, 95), 1), color=BLUE, alpha=0.7
    )
    axis.plot(*np.median(offsets, axis=0), "+", color=RED, ms=14, mew=2, label="median")
    reach = 1.2 * float(np.percentile(np.abs(offsets), 98)) + 0.1
    axis.axhline(0, color="black", lw=0.7)
    axis.axvline(0, color="black", lw=0.7)
    axis.set(xlim=(reach, -reach), ylim=(-reach, reach), aspect="equal")
    axis.set(xlabel="ΔRA cos δ (arcsec)", ylabel="ΔDec (arcsec)")
    axis.legend(loc="lower right")
    return png_uri(figure)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between two limits, about so many."""
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / about))
    step = next(s * power for s in (1, 2, 5, 10) if span / (s * power) <= about)
    return [float(k * step) for k in range(int(np.ceil(low / step)), int(high / step + 1e-9) + 1)]


def light_curve(
    mjd: Any, flux: Any, error: Any, limit: Any = None, width: int = 800, height: int = 220
) -> str:
    """Draw one light curve as SVG: fluxes with errors, upper limits as arrows, the weighted mean.

    Parameters
    ----------
    mjd, flux, error : (n,) array
        UTC days, Jy, Jy; NaN where there is none.
    limit : (n,) array, optional
        Upper limit where the source was not detected, Jy; NaN elsewhere.
    width, height : int
        Size, pixels.
    """
    mjd, flux, error = (np.asarray(a, float) for a in (mjd, flux, error))
    limit = np.full(mjd.shape, np.nan) if limit is None else np.asarray(limit, float)
    flux, error, limit = 1e3 * flux, 1e3 * error, 1e3 * limit
    left, right, top, bottom = 62, width - 10, 10, height - 36
    seen = np.isfinite(flux) & ~np.isfinite(limit)
    reach = np.concatenate([(flux + error)[seen], limit[np.isfinite(limit)], [0.0]])
    high = 1.08 * np.nanmax(reach) or 1.0
    low = min(0.0, 1.08 * float(np.nanmin(np.append((flux - error)[seen], 0.0))))
    margin = max(0.04 * np.ptp(mjd), 0.02) if mjd.size else 1.0
    first, last = (mjd.min() - margin, mjd.max() + margin) if mjd.size else (0.0, 1.0)

    def x(day: float) -> str:
        return f"{left + (day - first) / (last - first) * (right - left):.1f}"

    def y(value: float) -> str:
        return f"{bottom - (value - low) / (high - low) * (bottom - top):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" class="curve" role="img" font-family="sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for value in ticks(low, high):
        parts.append(
            f'<path d="M{left} {y(value)}H{right}" stroke="#ddd"/>'
            f'<text x="{left - 5}" y="{y(value)}" dy="4" text-anchor="end">{value:g}</text>'
        )
    for day in ticks(first, last, 6):
        parts.append(
            f'<path d="M{x(day)} {bottom}v4" stroke="#555"/>'
            f'<text x="{x(day)}" y="{bottom + 16}" text-anchor="middle">{day:.8g}</text>'
        )
    good = seen & (error > 0)
    if good.any():
        mean = np.average(flux[good], weights=error[good] ** -2.0)
        parts.append(
            f'<path d="M{left} {y(mean)}H{right}" stroke="#000" stroke-dasharray="5 4">'
            f"<title>weighted mean {mean:.4g} mJy</title></path>"
        )
    for day, s, e, upper in zip(mjd, flux, error, limit, strict=True):
        if np.isfinite(upper):
            parts.append(
                f'<path d="M{x(day)} {y(upper)}m-5 0h10l-5 9z" fill="#fff" stroke="{GREY}">'
                f"<title>MJD {day:.4f}: below {upper:.3g} mJy</title></path>"
            )
        elif np.isfinite(s):
            bar = f"M{x(day)} {y(s - e)}V{y(s + e)}" if np.isfinite(e) else ""
            parts.append(
                f'<path d="{bar}" stroke="{BLUE}"/><circle cx="{x(day)}" cy="{y(s)}" r="3.5" '
                f'fill="{BLUE}"><title>MJD {day:.4f}: {s:.4g} ± {e:.2g} mJy</title></circle>'
            )
    parts.append(
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#000"/>'
        f'<text x="{(left + right) / 2:.0f}" y="{height - 5}" text-anchor="middle">MJD</text>'
        f'<text transform="translate(14 {(top + bottom) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">flux (mJy)</text></svg>'
    )
    return "".join(parts)


def variability_plane(table: list[dict], eta_limit: float, v_limit: float) -> str | None:
    """Draw eta against V of all sources; candidates stand in the upper right corner."""
    used = [r for r in table if (r.get("eta") or 0) > 0 and (r.get("v") or 0) > 0]
    if not used:
        return None
    eta, v = (np.array([r[k] for r in used]) for k in ("eta", "v"))
    chosen = (eta > eta_limit) & (v > v_limit)
    figure, axis = new_figure(5.2, 3.8)
    axis.loglog(v[~chosen], eta[~chosen], "o", color=GREY, ms=3, label="sources")
    axis.loglog(v[chosen], eta[chosen], "D", color=RED, ms=6, label="candidates")
    axis.axhline(eta_limit, color="black", lw=0.8, ls="--")
    axis.axvline(v_limit, color="black", lw=0.8, ls="--")
    axis.set(xlabel="V = standard deviation / mean", ylabel="η (reduced χ² about the mean)")
    axis.legend(loc="upper left")
    return png_uri(figure)


# --- many nights ----------------------------------------------------------------------------------


def trends(nights: list[dict]) -> str | None:
    """Draw noise, flux scale, completeness and usable tiles against the night.

    Parameters
    ----------
    nights : list of dict
        ``night``, ``rms_jy``, ``thermal_jy``, ``flux_ratio``, ``flux_ratio_error``,
        ``completeness``, ``usable`` (share of tiles); None where unknown.
    """
    if not nights:
        return None
    import matplotlib.dates as mdates

    days = np.array([n["night"] for n in nights], "datetime64[D]")
    column = {
        name: np.array([np.nan if n[name] is None else n[name] for n in nights], float)
        for name in nights[0]
        if name != "night"
    }
    figure, axes = new_figure(10.5, 6, 3, 1, sharex=True)
    axes[0].plot(days, 1e3 * column["rms_jy"], "o", color=BLUE, ms=4, label="measured")
    axes[0].plot(days, 1e3 * column["thermal_jy"], "_", color="black", ms=9, label="thermal")
    axes[0].set_ylabel("tile noise\n(mJy/beam)")
    _flux_axis(axes[0])
    axes[1].axhline(1, color="black", lw=0.8)
    axes[1].errorbar(
        days, column["flux_ratio"], column["flux_ratio_error"], fmt="o", color=BLUE, ms=4, lw=1
    )
    axes[1].set(ylabel="measured /\ncatalogue flux")
    axes[2].plot(days, column["usable"], "s", color=BLUE, ms=4, label="tiles usable")
    axes[2].plot(
        days, column["completeness"], "x", color=RED, ms=6, label="complete above 10 sigma"
    )
    axes[2].set(ylabel="share", ylim=(-0.05, 1.08))
    for axis in (axes[0], axes[2]):
        axis.legend(ncols=2, loc="best")
    day = np.timedelta64(1, "D")
    axes[2].set_xlim(days.min() - day, days.max() + day)
    few = np.ptp(days) <= 8 * day
    locator = mdates.DayLocator() if few else mdates.AutoDateLocator(minticks=2, maxticks=10)
    axes[2].xaxis.set_major_locator(locator)
    axes[2].xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    return png_uri(figure)


def gain_history(solutions: list[tuple[str, SolutionCube]]) -> str | None:
    """Draw the gain amplitude of every antenna over all calibrations, relative to its median.

    Parameters
    ----------
    solutions : list of (str, SolutionCube)
        Group id and gain table, in order of time.
    """
    names = list(dict.fromkeys(name for _, table in solutions for name in table.antennas))
    data = np.full((len(names), len(solutions)), np.nan)
    for i, (_, table) in enumerate(solutions):
        amplitude = np.ma.median(np.ma.abs(table.values), axis=(0, 2, 3)).filled(np.nan)
        for name, value in zip(table.antennas, amplitude, strict=True):
            data[names.index(name), i] = value
    known = np.isfinite(data).any(axis=1)
    if not known.any():
        return None
    data, names = data[known], [n for n, k in zip(names, known, strict=True) if k]
    relative = data / np.nanmedian(data, axis=1, keepdims=True)
    figure, axis = new_figure(10.5, 1.6 + 0.06 * len(names))
    axis.grid(False)
    axis.patch.set(hatch="xxx", edgecolor="#bbbbbb", facecolor="#eeeeee")
    shown = axis.imshow(
        np.ma.masked_invalid(relative),
        aspect="auto",
        cmap="cividis",
        vmin=0.7,
        vmax=1.3,
        interpolation="nearest",
    )
    antenna_axis(axis.yaxis, names, 14)
    named_ticks(axis.xaxis, [group.partition("T")[0] for group, _ in solutions], 10)
    axis.set_xlabel("calibration")
    figure.colorbar(shown, ax=axis, label="gain amplitude / its median", pad=0.01)
    return png_uri(figure, colour_map=True)
