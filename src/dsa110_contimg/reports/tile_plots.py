"""Figures of one tile: the image on two scales, what is left in it, visibilities, flags.

Each function takes numbers and returns an image as bytes or as a data URI, as those of `figures`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.figures import FlagStatistics, Visibilities
from ..maps.planes import Plane
from .plots import (
    BLUE,
    GREY,
    KNEE_SIGMA,
    ORANGE,
    antenna_axis,
    middle_and_sigma,
    new_figure,
    png_uri,
    shrink,
    stretch,
)

__all__ = ["flag_map", "residuals", "view", "visibilities"]

#: Panels show images of about this many pixels a side.
PANEL_PX = 480
#: Ends of the linear scale, robust standard deviations.
LINEAR_SIGMA = (-3.0, 15.0)
#: Half the width of the close-up, restoring beams (major axis).
CLOSE_UP_BEAMS = 8


def _extent(plane: Plane) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of an image, deg from its reference position."""
    header, (ny, nx) = plane.header, plane.data.shape
    x = (np.array([0.5, nx + 0.5]) - header["CRPIX1"]) * header["CDELT1"]
    y = (np.array([0.5, ny + 0.5]) - header["CRPIX2"]) * header["CDELT2"]
    return (*x, *y)


def _beam(plane: Plane, place: tuple[float, float]) -> Any:
    """Return the restoring beam at a place (deg from the reference position), or None."""
    from matplotlib.patches import Ellipse

    header = plane.header
    if not header.get("BMAJ"):
        return None
    # Offsets grow to the left, so an angle from north through east turns as it is written.
    return Ellipse(
        place,
        header["BMIN"],
        header["BMAJ"],
        angle=-header.get("BPA", 0.0),
        facecolor=ORANGE,
        edgecolor="black",
        lw=0.8,
    )


def _contours(axis: Any, response: np.ndarray | None, extent: tuple) -> None:
    """Draw where the primary beam falls to a half (solid) and a fifth (dashed)."""
    if response is None:
        return
    step = max(1, max(response.shape) // 120)
    x = np.linspace(extent[0], extent[1], response[::step, ::step].shape[1])
    y = np.linspace(extent[2], extent[3], response[::step, ::step].shape[0])
    axis.contour(
        x, y, response[::step, ::step], [0.2, 0.5], colors=BLUE, linewidths=1,
        linestyles=["--", "-"],
    )  # fmt: skip


def view(plane: Plane, response: np.ndarray | None = None) -> bytes:
    """Draw a tile on a linear and on an asinh scale, and its brightest source close up, as JPEG.

    Parameters
    ----------
    plane : Plane
        Image before correction for the primary beam, Jy/beam.
    response : (ny, nx) array, optional
        Primary beam.
    """
    from matplotlib.colors import AsinhNorm, Normalize

    data = np.asarray(plane.data, np.float32)
    middle, sigma = middle_and_sigma(data)
    _, low, high = stretch(small := shrink(data, PANEL_PX), (middle, sigma))
    low, high = (low, high) if high > low else (-1e-9, 1e-9)
    faintest, brightest = (1e3 * (middle + s * sigma) for s in LINEAR_SIGMA)
    linear = Normalize(faintest, brightest)
    asinh = AsinhNorm(1e3 * KNEE_SIGMA * sigma, vmin=1e3 * low, vmax=1e3 * high)
    extent = _extent(plane)
    figure, axes = new_figure(13, 3.9, 1, 3)
    for axis, norm, words in ((axes[0], linear, "linear"), (axes[1], asinh, "asinh")):
        _draw(figure, axis, small, extent, norm)
        axis.set(title=f"{words} scale", xlabel="offset in RA cos Dec (deg)")
        _contours(axis, response, extent)
        _put_beam(axis, plane)
    axes[0].set_ylabel("offset in Dec (deg)")
    _close_up(figure, axes[2], plane, data, middle, sigma)
    return _jpeg(figure)


def _jpeg(figure: Any) -> bytes:
    """Return a figure with images in it as JPEG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="jpg", dpi=100, pil_kwargs={"quality": 78, "optimize": True})
    return stream.getvalue()


def _draw(figure: Any, axis: Any, data: np.ndarray, extent: tuple, norm: Any) -> None:
    axis.grid(False)
    axis.set_facecolor("#ebebeb")
    shown = axis.imshow(
        1e3 * np.ma.masked_invalid(data), cmap="gray_r", norm=norm, extent=extent, origin="lower"
    )
    bar = figure.colorbar(shown, ax=axis, label="mJy/beam", pad=0.01, extend="both")
    if hasattr(norm, "linear_width"):
        bar.set_ticks(asinh_ticks(norm), minor=False)
        bar.ax.minorticks_off()
        bar.ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")


def asinh_ticks(norm: Any) -> list[float]:
    """Return round numbers that lie well apart on an asinh scale, zero among them."""
    powers = 10.0 ** np.arange(-3, 7)
    marks = sorted([s * v for s in (-1, 1) for p in powers for v in (p, 2 * p, 5 * p)])
    chosen = [0.0]
    for mark in sorted(marks, key=lambda v: (float(f"{abs(v):e}"[0]) != 1, abs(v))):
        inside = norm.vmin <= mark <= norm.vmax
        if inside and min(abs(float(norm(mark) - norm(c))) for c in chosen) > 0.09:
            chosen.append(mark)
    return sorted(chosen)


def _put_beam(axis: Any, plane: Plane) -> None:
    """Draw the beam in the lower left corner, to scale."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    beam = _beam(plane, (left + 0.08 * (right - left), bottom + 0.08 * (top - bottom)))
    if beam is not None:
        axis.add_patch(beam)


def _close_up(
    figure: Any, axis: Any, plane: Plane, data: np.ndarray, middle: float, sigma: float
) -> None:
    """Draw the surroundings of the brightest pixel, where the beam is large enough to be seen."""
    from matplotlib.colors import AsinhNorm

    if not np.isfinite(data).any():
        axis.set_axis_off()
        return
    header = plane.header
    y, x = np.unravel_index(np.nanargmax(data), data.shape)
    peak = float(data[y, x])
    beam_px = abs((header.get("BMAJ") or 10 * header["CDELT2"]) / header["CDELT2"])
    half = int(np.ceil(CLOSE_UP_BEAMS * beam_px))
    rows = slice(max(0, y - half), min(data.shape[0], y + half + 1))
    columns = slice(max(0, x - half), min(data.shape[1], x + half + 1))
    edge_x = (np.array([columns.start, columns.stop]) - 0.5 - x) * header["CDELT1"]
    edge_y = (np.array([rows.start, rows.stop]) - 0.5 - y) * header["CDELT2"]
    top = max(peak, middle + 10 * sigma)
    norm = AsinhNorm(1e3 * KNEE_SIGMA * sigma, vmin=1e3 * (middle - 3 * sigma), vmax=1e3 * top)
    _draw(figure, axis, data[rows, columns], (*edge_x, *edge_y), norm)
    axis.set(
        title=f"peak, {peak:.4g} Jy/beam (asinh)",
        xlabel="offset in RA cos Dec (deg)",
    )
    axis.locator_params(nbins=5)
    _put_beam(axis, plane)


def extreme(data: np.ndarray, size: int) -> np.ndarray:
    """Return an image shrunk to about `size`: of each block the value farthest from zero."""
    high, low = shrink(data, size), -shrink(-np.asarray(data, np.float32), size)
    return np.where(np.abs(low) > high, low, high)


def residuals(plane: Plane, noise: Plane | None, response: np.ndarray | None) -> bytes:
    """Draw what is left after deconvolution, in units of its noise, and the local noise: JPEG."""
    data = np.asarray(plane.data, np.float32)
    middle, sigma = middle_and_sigma(data)
    extent = _extent(plane)
    figure, axes = new_figure(10.5, 4.4, 1, 2)
    axis = axes[0]
    axis.grid(False)
    small = np.ma.masked_invalid((extreme(data - middle, PANEL_PX)) / sigma)
    shown = axis.imshow(small, cmap="PuOr_r", vmin=-10, vmax=10, extent=extent, origin="lower")
    figure.colorbar(shown, ax=axis, label="residual / its noise", pad=0.01, extend="both")
    axis.set(
        title=f"residual (noise {1e3 * sigma:.3g} mJy/beam)",
        xlabel="offset in RA cos Dec (deg)",
        ylabel="offset in Dec (deg)",
    )
    _contours(axis, response, extent)
    if noise is None:
        axes[1].set_axis_off()
        return _jpeg(figure)
    axis = axes[1]
    axis.grid(False)
    small = 1e3 * np.ma.masked_invalid(noise.data[::6, ::6])
    shown = axis.imshow(small, cmap="cividis", extent=_extent(noise), origin="lower")
    figure.colorbar(shown, ax=axis, label="mJy/beam", pad=0.01)
    axis.set(title="local noise", xlabel="offset in RA cos Dec (deg)")
    _contours(axis, response, extent)
    return _jpeg(figure)


#: Column of the figure of visibilities -> (key of its places, label, what to do to the places).
_AXES = {
    "frequency": ("freq_hz", "frequency (GHz)", 1e-9),
    "time": ("time_mjd", "minutes since the first integration", 1440.0),
    "length": ("length_m", "projected baseline (m)", 1.0),
    "antenna": ("names", "antenna", None),
}


def visibilities(summary: Visibilities) -> str:
    """Draw amplitude and phase of calibrated data: by frequency, time, baseline and antenna.

    Parameters
    ----------
    summary : Visibilities
        As `ms.summary.summarise_ms` gives it.
    """
    figure, axes = new_figure(13, 5, 2, 4, sharex="col", sharey="row")
    for column, (name, (key, label, scale)) in zip(axes.T, _AXES.items(), strict=True):
        part = getattr(summary, name)
        places = getattr(part, key)
        if scale is None:
            x = np.arange(len(places), dtype=float)
        else:
            x = scale * (np.array(places) - (places[0] if name == "time" else 0))
        for axis, quantity in zip(column, ("amplitude_jy", "phase_deg"), strict=True):
            _band(axis, x, getattr(part, quantity), summary.polarizations, name == "antenna")
        if name == "length":
            column[1].set_xscale("log")
            column[1].xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        column[1].set_xlabel(label)
        if name == "antenna":
            antenna_axis(column[1].xaxis, places, 10)
    axes[0, 0].set_ylabel("amplitude (Jy)")
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylabel("phase (deg)")
    axes[1, 0].set_ylim(*phase_limits(summary))
    axes[0, 0].legend(loc="best", ncols=3)
    return png_uri(figure)


def phase_limits(summary: Visibilities) -> tuple[float, float]:
    """Return limits of the phase axis: close where phases are, the whole circle where they wrap."""
    columns = [getattr(summary, name).phase_deg for name in _AXES]
    ends = [abs(v) for c in columns for k in ("low", "high") for v in c[k] if v is not None]
    reach = 1.2 * float(np.percentile(ends, 98)) if ends else 180.0
    return (-reach, reach) if reach < 110 else (-190, 190)


def _band(axis: Any, x: np.ndarray, columns: Mapping, polarizations: list, marks: bool) -> None:
    """Draw the median of each polarisation, and what the middle 68 % of all data do."""
    low, high = (np.array(columns[k], float) for k in ("low", "high"))
    if marks:
        axis.vlines(x, low, high, color="#c4c4c4", lw=2.5, label="middle 68 %")
    else:
        axis.fill_between(x, low, high, color="#dddddd", lw=0, label="middle 68 %")
    looks = ((BLUE, "-", "o"), (ORANGE, "--", "x"), (GREY, ":", "+"), ("black", "-.", "s"))
    for name, (colour, line, mark) in zip(polarizations, looks, strict=False):
        style = (
            {"ls": "none", "marker": mark, "ms": 3}
            if marks
            else {"ls": line, "lw": 1.3, "marker": ".", "ms": 3}
        )
        axis.plot(x, np.array(columns[name], float), color=colour, label=name, **style)


def flag_map(flags: FlagStatistics, freq_mhz: tuple[float, float]) -> str | None:
    """Draw the flagged share by antenna and frequency, with the share of each channel above it.

    Parameters
    ----------
    flags : FlagStatistics
        Of the conversion.
    freq_mhz : tuple of float
        Edges of the band, MHz.
    """
    rows = flags.percent_by_antenna_block
    if not rows:
        return None
    figure, (upper, lower) = new_figure(
        10.5, 2.3 + 0.045 * len(rows), 2, 1, sharex=True, height_ratios=(1.2, 1 + 0.045 * len(rows))
    )
    channels = np.array(flags.by_channel, float)
    edges = np.linspace(*freq_mhz, len(channels) + 1)
    upper.stairs(100 * channels, edges, color=BLUE, fill=True, alpha=0.6)
    upper.set(ylim=(0, 103), ylabel="flagged (%)")
    lower.grid(False)
    shown = lower.imshow(
        np.array(list(rows.values())),
        aspect="auto",
        cmap="cividis",
        vmin=0,
        vmax=100,
        interpolation="nearest",
        extent=(*freq_mhz, len(rows) - 0.5, -0.5),
    )
    antenna_axis(lower.yaxis, list(rows), 12)
    lower.set_xlabel("frequency (MHz)")
    figure.colorbar(shown, ax=[upper, lower], label="flagged (%)", pad=0.01)
    return png_uri(figure, colour_map=True)
