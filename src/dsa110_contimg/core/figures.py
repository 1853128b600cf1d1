"""Figures of merit: one typed model a step, the only source of what its sidecars say under ``qa``.

From the models here come what steps may write (a name that is not declared is an error at once),
what readers get, the JSON schema of sidecars (``config/sidecar.schema.json``), the tables of the
documentation (``docs/reference/figures.md``), and the columns of the index that are figures. Each
figure has its type, its unit, its meaning and, where one exists, the gate that it is held against.
"""

# Annotations are evaluated here, where models are made: as text they would take twice the time, and
# every step and every tick imports this module.

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.fields import FieldInfo

from .described import Described, meanings

__all__ = [
    "FIGURES",
    "AppliedAveraging",
    "AppliedCalibration",
    "ApplyFigures",
    "Astrometry",
    "BlindFigures",
    "ByAntenna",
    "ByFrequency",
    "ByLength",
    "ByTime",
    "CalibrateFigures",
    "CatalogCheck",
    "CatalogFigures",
    "ConvertFigures",
    "Description",
    "EpochCards",
    "EpochCorrection",
    "EpochFigures",
    "Figures",
    "FlagStatistics",
    "FluxAnchor",
    "GroupFigures",
    "ImageFigures",
    "JointFigures",
    "JointTile",
    "LeftOut",
    "LightcurvesFigures",
    "MedianOffset",
    "Model",
    "MosaicFigures",
    "MosaicTile",
    "PhotometryFigures",
    "Pointing",
    "PointingOffset",
    "SelfcalRound",
    "SubbandImages",
    "SubbandPart",
    "TransientSearch",
    "Validation",
    "Visibilities",
    "Weights",
    "describe",
]


# --- what a figure is -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """Unit of a number; empty for a pure number."""

    name: str

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict:
        """Return the schema with the unit."""
        return handler(core) | ({"unit": self.name} if self.name else {})


@dataclass(frozen=True)
class Gate:
    """What a figure is held against; options and constants are named in backquotes."""

    text: str

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict:
        """Return the schema with the gate."""
        return handler(core) | {"gate": self.text}


Number = Annotated[float, Unit("")]
Count = Annotated[int, Unit("")]
Percent = Annotated[int, Unit("%")]
Jy = Annotated[float, Unit("Jy")]
JyBeam = Annotated[float, Unit("Jy/beam")]
Weight = Annotated[float, Unit("Jy-2")]
Deg = Annotated[float, Unit("deg")]
Deg2 = Annotated[float, Unit("deg2")]
Arcsec = Annotated[float, Unit("arcsec")]
Hz = Annotated[float, Unit("Hz")]
Mjd = Annotated[float, Unit("d")]
Hours = Annotated[float, Unit("h")]
Seconds = Annotated[float, Unit("s")]
Nanoseconds = Annotated[float, Unit("ns")]
Metres = Annotated[float, Unit("m")]
Gigabytes = Annotated[float, Unit("GB")]

#: Default of a figure that is left out of a sidecar, not null, where there was nothing to measure.
#: Readers find None; what has a verdict other than ``fail`` has the figure.
ABSENT: Any = None


class Model(Described, BaseModel):
    """A figure of several parts, or all figures of a sidecar.

    Writers are strict: names that are not declared are errors, in the constructor and when set.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, defer_build=True)

    def plain(self) -> dict[str, Any]:
        """Return what goes into JSON: the figures that were given, nested ones too."""
        return self.model_dump(exclude_unset=True)

    def single(self) -> dict[str, Any]:
        """Return the figures that are single numbers, words or truths."""
        return {k: v for k, v in self.plain().items() if isinstance(v, bool | int | float | str)}

    @classmethod
    def read(cls, content: Any) -> Self:
        """Return the figures that a file holds; names that are not known are passed over.

        Raises
        ------
        pydantic.ValidationError
            If one that must be there is not, or is of another type.
        """
        return cls.model_validate(content, extra="ignore")

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict:
        """Return the schema, without null as the default of what is absent."""
        schema = super().__get_pydantic_json_schema__(core, handler)
        for field in handler.resolve_ref_schema(schema).get("properties", {}).values():
            field.pop("default", None)
        return schema


class Figures(Model):
    """Figures of a sidecar; of a step that is not known, none."""


# --- parts that several steps have ----------------------------------------------------------------


class Pointing(Model):
    """Where the array pointed at each integration."""

    time_mjd: list[Mjd]
    """Middle of the integration, UTC."""
    ra_deg: list[Deg]
    """Right ascension of the pointing, ICRS."""
    dec_deg: list[Deg]
    """Declination of the pointing, ICRS."""


class FluxAnchor(Model):
    """What a flux scale rests on."""

    calibrators: list[str]
    """Calibrators that the data were solved on."""
    anchors: list[str]
    """Where their fluxes are from."""
    steady: Annotated[bool, Gate("warn if not")]
    """Whether all of them are known to be constant."""


class LeftOut(Model):
    """A tile that was left out."""

    tile: str
    """Its group."""
    reason: str
    """Why."""


# --- group ----------------------------------------------------------------------------------------


class GroupFigures(Figures):
    """``group_<id>.hdf5``: subbands combined into one file."""

    subbands: list[Count]
    """Subbands present."""
    absent_subbands: Annotated[list[Count], Gate("warn if any")]
    """Subbands that read as flagged."""
    n_integrations: Count
    """Integrations."""
    n_baselines: Count
    """Baselines, autocorrelations among them."""
    dec_app_deg: Deg
    """Apparent declination of the pointing."""
    group: dict[str, Any] = ABSENT
    """The inventory's entry of the group; the plan keeps it by this when its raw files are gone."""


# --- convert --------------------------------------------------------------------------------------


class Validation(Model):
    """A Measurement Set that was just written, checked by other means than it was written with."""

    missing_columns: Annotated[list[str], Gate("fail if any")] = ABSENT
    """Columns that are missing; the rest was not looked at then."""
    n_rows: Count = ABSENT
    """Rows of the main table."""
    n_integrations: Count = ABSENT
    """Integrations."""
    n_baselines: Count = ABSENT
    """Baselines, autocorrelations among them."""
    n_channels: Count = ABSENT
    """Channels."""
    longest_baseline_m: Annotated[Metres, Gate("fail above `conversion.validation._LONGEST_M`")] = (
        ABSENT
    )
    """Longest projected baseline."""
    uvw_error_m: Annotated[Metres, Gate("fail above `conversion.validation._UVW_M`")] = ABSENT
    """Largest difference between uvw and what astropy's horizontal frame gives."""
    pointing_off_meridian_arcsec: Annotated[
        Arcsec, Gate("fail above `conversion.validation._CENTRE_ARCSEC`")
    ] = ABSENT
    """Largest distance of the pointing from the meridian."""
    pointing_altitude_change_arcsec: Annotated[
        Arcsec, Gate("fail above `conversion.validation._CENTRE_ARCSEC`")
    ] = ABSENT
    """Range of the altitudes of the pointing."""
    phase_centre_offset_arcsec: Annotated[
        Arcsec, Gate("fail above `conversion.validation._CENTRE_ARCSEC`")
    ] = ABSENT
    """Distance of the phase centre from where the array points at mid-tile."""
    station_offset_m: Annotated[Metres, Gate("warn above `conversion.validation._POSITION_M`")] = (
        ABSENT
    )
    """Largest distance of an antenna from its place in the station table."""


class FlagStatistics(Model):
    """Flags of the cross-correlations.

    Effective fractions leave out antennas and channels without any data: what interference cost.
    """

    flagged_fraction: Annotated[
        Number, Gate("fail if less than `conversion.flagging.LEAST_REMAINING` is left")
    ]
    """Share of all that was recorded that is flagged."""
    flagged_fraction_effective: Annotated[
        Number,
        Gate(
            "warn above `conversion.flagging.WARN_FRACTION`, "
            "fail above `conversion.flagging.FAIL_FRACTION`"
        ),
    ]
    """Share of flagged visibilities after conversion."""
    absent_antennas: list[str]
    """Antennas without any data."""
    absent_channels: Count
    """Channels without any data."""
    by_antenna: dict[str, Number]
    """Effective flagged fraction of each antenna."""
    by_channel: list[Number]
    """Flagged fraction of each channel, of the antennas with data."""
    percent_by_antenna_block: dict[str, list[Percent]]
    """Flagged percentage of each antenna in blocks of channels, absent ones among them."""
    by_baseline_length: dict[str, Number]
    """Effective flagged fraction by projected length."""
    by_polarization: dict[str, Number]
    """Effective flagged fraction of each polarisation."""
    dead_antennas: list[str] = []
    """Antennas that were flagged whole, for next to nothing of them was left."""
    not_finite: Count = 0
    """Samples that were NaN or infinite."""


class ConvertFigures(Figures):
    """``<id>.ms``: the flagged Measurement Set."""

    writer: Literal["direct", "pyuvdata"]
    """What wrote it."""
    subbands: list[Count]
    """Subbands present."""
    phase_centre_ra_deg: Deg
    """Phase centre, ICRS."""
    phase_centre_dec_deg: Deg
    """Phase centre, ICRS."""
    dec_app_deg: Deg
    """Apparent declination of the pointing."""
    aberration_scale: Number = 1.0
    """How many times larger the field appears than it is, by aberration."""
    pointing: Pointing
    """Where the array pointed."""
    validation: Validation | None = None
    """What was checked after writing."""
    flags: FlagStatistics | None = None
    """What was flagged."""


# --- calibrate ------------------------------------------------------------------------------------

_FLAGGED = Gate(
    "warn above the first, fail above the second of `calibration.judge.FLAGGED_FRACTION`"
)
_SNR = Gate("warn below the first, fail below the second of `calibration.judge.MEDIAN_SNR`")


class CalibrateFigures(Figures):
    """``<id>.kcal``, ``.bcal``, ``.gcal``: delays, bandpass, gains; the same in all three.

    A solution that failed has the figures up to where it ended.
    """

    group: str
    """Group that was solved on."""
    calibrator: str
    """Name of the calibrator."""
    calibrator_ra_deg: Deg
    """Right ascension of the calibrator, ICRS."""
    calibrator_dec_deg: Deg
    """Declination of the calibrator, ICRS."""
    flux_anchor: str
    """Where its flux is from."""
    steady: Annotated[bool, Gate("warn if not")]
    """Whether its flux is known to be constant."""
    dec_app_deg: Deg
    """Apparent declination of the pointing."""
    mjd: Mjd = ABSENT
    """Mean time of the data that were solved on, UTC."""
    model_sources: Count = ABSENT
    """Sources in the model."""
    calibrator_share: Annotated[Number, Gate("fail below `calibration.min_field_share`")] = ABSENT
    """Share of the calibrator in the apparent flux of its field."""
    calibrator_apparent_jy: Annotated[Jy, Gate("fail below half of `calibration.min_flux_jy`")] = (
        ABSENT
    )
    """Flux of the calibrator times the beam, mean over the tile."""
    antennas: list[str] = ABSENT
    """Antennas with data."""
    freq_hz: list[Hz] = ABSENT
    """First and last channel of the bandpass."""
    n_channels: Count = ABSENT
    """Channels of the bandpass."""
    refant: str = ABSENT
    """Reference antenna."""
    kcal_flagged: Number = ABSENT
    """Flagged share of the delays, of all antennas of the table."""
    kcal_flagged_effective: Number = ABSENT
    """Flagged share of the delays, of antennas with solutions."""
    bcal_flagged: Number = ABSENT
    """Flagged share of the bandpass, of all antennas of the table."""
    bcal_flagged_effective: Annotated[Number, _FLAGGED] = ABSENT
    """Flagged share of the bandpass, of antennas with solutions."""
    bcal_median_snr: Annotated[Number, _SNR] = ABSENT
    """Median signal-to-noise ratio of the bandpass."""
    gcal_flagged: Number = ABSENT
    """Flagged share of the gains, of all antennas of the table."""
    gcal_flagged_effective: Annotated[Number, _FLAGGED] = ABSENT
    """Flagged share of the gains, of antennas with solutions."""
    gcal_median_snr: Annotated[Number, _SNR] = ABSENT
    """Median signal-to-noise ratio of the gains."""
    n_antennas: Annotated[Count, Gate("fail below `calibration.judge.LEAST_ANTENNAS`")] = ABSENT
    """Antennas with bandpass and gains."""
    bandpass_amplitude_mean: Annotated[
        Number, Gate("warn outside `calibration.judge.BANDPASS_AMPLITUDE`, but in quick mode")
    ] = ABSENT
    """Mean amplitude of the bandpass; near 1 where it is normalised."""
    bandpass_phase_scatter_deg: Annotated[
        Deg, Gate("warn above `calibration.judge.PHASE_SCATTER_DEG`")
    ] = ABSENT
    """Standard deviation of the phases of the bandpass."""
    bandpass_roughness: Number = ABSENT
    """Robust rms of the bandpass about a smooth curve, as a fraction of its amplitude."""
    channels_flagged: Count = ABSENT
    """Channels that are flagged on most antennas."""
    subbands_flagged: Annotated[Count, Gate("warn if any")] = ABSENT
    """Subbands without a bandpass."""
    delay_rms_ns: Nanoseconds | None = ABSENT
    """Rms of the delays, outliers left out."""
    delay_largest_ns: Annotated[
        Nanoseconds, Gate("warn above `calibration.judge.DELAY_LIMIT_NS`")
    ] = ABSENT
    """Largest delay."""
    delay_outliers_ns: Annotated[
        dict[str, Nanoseconds],
        Gate("warn if any, fail above a share of `calibration.judge.DELAY_OUTLIERS`"),
    ] = ABSENT
    """Antennas whose delay is far from the others', with the difference from the median."""
    gain_amplitude_median: Number = ABSENT
    """Median amplitude of the gains."""
    phase_drift_deg: Deg = ABSENT
    """Standard deviation of the gains' phases within the tile, median over antennas."""
    amplitude_drift: Number = ABSENT
    """Relative standard deviation of their amplitudes within the tile, median over antennas."""
    model_over_corrected: Annotated[
        Number,
        Gate(
            "it or its inverse: warn above the first, fail above the second of "
            "`calibration.judge.MODEL_OVER_CORRECTED`"
        ),
    ] = ABSENT
    """Model over corrected amplitude of the calibrator."""
    gain_interval_s: Seconds | None = ABSENT
    """Running mean with which gains follow drifts; null: one gain a tile."""
    gain_short_median_snr: Number = ABSENT
    """Median signal-to-noise ratio of gains over that time."""


# --- apply ----------------------------------------------------------------------------------------


class Weights(Model):
    """Sums of the weights of unflagged visibilities."""

    freq_hz: list[Hz]
    """Channels."""
    time_mjd: list[Mjd]
    """Integrations, UTC."""
    weight: list[list[Weight]]
    """Sum for each integration and, in it, each channel."""


class AppliedAveraging(Model):
    """How much was averaged."""

    channels: Count
    """Channels that became one."""
    integrations: Count
    """Integrations that became one."""
    loss_at_half_power: Annotated[Number, Gate("kept below `apply.max_smearing`")]
    """Flux that this costs a point source at half power of the beam, as a fraction."""


class AppliedCalibration(Model):
    """The calibration that was applied."""

    group: str
    """Group that it was solved on."""
    calibrator: str
    """Its calibrator."""
    flux_anchor: str | None = None
    """Where the flux of that is from."""
    steady: Annotated[bool | None, Gate("warn if not")] = None
    """Whether that flux is known to be constant."""
    apart_h: Hours
    """Time between solution and tile."""
    borrowed: Annotated[bool, Gate("warn if so: beyond `calibration.validity_h`")]
    """Whether the solution is from longer ago, or later, than it is valid."""


_Values = dict[str, list[Annotated[float | None, Unit("Jy")]]]
_Phases = dict[str, list[Annotated[float | None, Unit("deg")]]]


class ByFrequency(Model):
    """Percentiles of visibilities by channel."""

    freq_hz: list[Hz]
    """Channels."""
    amplitude_jy: _Values
    """``low`` and ``high`` (16th and 84th percentile), and the median of each polarisation."""
    phase_deg: _Phases
    """The same of the phases."""


class ByTime(Model):
    """Percentiles of visibilities by integration."""

    time_mjd: list[Mjd]
    """Integrations, UTC."""
    amplitude_jy: _Values
    """``low`` and ``high`` (16th and 84th percentile), and the median of each polarisation."""
    phase_deg: _Phases
    """The same of the phases."""


class ByLength(Model):
    """Percentiles of visibilities by projected baseline."""

    length_m: list[Metres]
    """Middle of the bins."""
    amplitude_jy: _Values
    """``low`` and ``high`` (16th and 84th percentile), and the median of each polarisation."""
    phase_deg: _Phases
    """The same of the phases."""


class ByAntenna(Model):
    """Percentiles of visibilities by antenna."""

    names: list[str]
    """Antennas."""
    amplitude_jy: _Values
    """``low`` and ``high`` (16th and 84th percentile), and the median of each polarisation."""
    phase_deg: _Phases
    """The same of the phases, as each antenna has them."""


class Visibilities(Model):
    """Calibrated visibilities, summed up; a bin without data has null."""

    polarizations: list[str]
    """Polarisations."""
    towards_deg: list[Deg] | None
    """Where phases refer to, ICRS; null: the phase centre."""
    n_sampled: Count
    """Visibilities in the sample."""
    frequency: ByFrequency
    """By channel."""
    time: ByTime
    """By integration."""
    length: ByLength
    """By projected baseline."""
    antenna: ByAntenna
    """By antenna."""


class ApplyFigures(Figures):
    """``<id>.cal.ms``: calibrated, averaged visibilities."""

    pointing: Pointing
    """Where the array pointed."""
    dec_app_deg: Deg
    """Apparent declination of the pointing."""
    phase_centre_ra_deg: Deg
    """Right ascension of the phase centre, ICRS."""
    phase_centre_dec_deg: Deg
    """Declination of the phase centre, ICRS."""
    aberration_scale: Number = 1.0
    """How many times larger the field appears than it is, by aberration."""
    weights: Weights
    """What the data weigh by time and channel: the beam of the tile follows from it."""
    flagged_fraction: Annotated[Number, Gate("fail at 1")]
    """Flagged share of the visibilities."""
    averaging: AppliedAveraging
    """How much was averaged."""
    calibration: AppliedCalibration
    """What was applied."""
    visibilities: Visibilities | None = None
    """What the data look like."""


# --- image ----------------------------------------------------------------------------------------


class SelfcalRound(Model):
    """A round of self-calibration."""

    mode: Literal["phase", "amplitude"]
    """What was solved for."""
    interval_s: Seconds | None
    """How long a solution lasts; null: the whole tile."""
    flagged: Annotated[Number, Gate("not accepted above `selfcal.max_flagged`")] = ABSENT
    """Share of the solutions that were not found."""
    phase_scatter_deg: Deg = ABSENT
    """Scatter of the phases of the gains."""
    amplitude_scatter: Number = ABSENT
    """Scatter of the amplitudes of the gains."""
    dynamic_range: Number = ABSENT
    """Peak over the plain rms of the residuals."""
    dynamic_range_gain: Annotated[Number, Gate("not accepted below 1 + `selfcal.least_gain`")] = (
        ABSENT
    )
    """That over what it was before."""
    noise_ratio: Annotated[Number, Gate("not accepted above 1.002")] = ABSENT
    """Robust rms of the residuals over what it was before."""
    flux_ratio: Annotated[Number, Gate("not accepted beyond `selfcal.flux_tolerance` of 1")] = (
        ABSENT
    )
    """Fluxes of bright sources over what they were before."""
    accepted: bool
    """Whether it was kept."""
    reason: str = ABSENT
    """Why it was not."""


class Astrometry(Model):
    """Positions of a tile against the catalogue, measured minus catalogue, on the sky."""

    n: Count
    """Sources."""
    ra_offset_arcsec: Arcsec
    """Median offset to the east."""
    dec_offset_arcsec: Arcsec
    """Median offset to the north."""
    ra_scatter_arcsec: Arcsec
    """Robust scatter of the offsets to the east."""
    dec_scatter_arcsec: Arcsec
    """Robust scatter of the offsets to the north."""
    error_arcsec: Arcsec
    """Error of either median."""
    gradient_arcsec_per_deg: list[list[Annotated[float, Unit("arcsec/deg")]]]
    """Change of both offsets per degree to the east, and to the north."""


class PointingOffset(Model):
    """How far the dishes pointed from where they were assumed to, from flux ratios.

    The offset is true minus assumed pointing, on the sky.
    """

    n: Count
    """Flux ratios."""
    east_deg: Deg
    """Offset to the east."""
    north_deg: Deg
    """Offset to the north."""
    east_error_deg: Deg
    """Its error."""
    north_error_deg: Deg
    """Its error."""
    correlation: Number
    """Correlation of the two."""
    offset_deg: Annotated[Deg, Gate("warn above `imaging.warn_pointing_deg`, where it has 5 sigma")]
    """Length of the offset."""
    position_angle_deg: Deg
    """Its direction, north through east."""
    significance: Number
    """Length in standard deviations."""
    flux_scale: Number
    """Measured over catalogue flux, fitted together."""
    slope_east_per_deg: Annotated[float, Unit("deg-1")]
    """Relative change of the ratio to the east."""
    slope_north_per_deg: Annotated[float, Unit("deg-1")]
    """Relative change of the ratio to the north."""


class CatalogCheck(Model):
    """A tile against the catalogue; null where there are too few sources."""

    n_sources: Count
    """Bright, isolated sources."""
    flux_ratio: Annotated[
        Number | None,
        Gate("fail if off 1 by more than `imaging.max_flux_scale_error`, beyond twice its error"),
    ]
    """Median of measured over catalogue flux."""
    flux_ratio_error: Number | None
    """Its error."""
    flux_ratio_scatter: Number | None
    """Robust scatter of the ratios."""
    n_expected: Count
    """Sources expected at 10 sigma."""
    completeness: Annotated[
        Number | None, Gate("warn below `imaging.min_completeness`, of ten sources or more")
    ]
    """Share of those that is found at 5."""
    astrometry: Annotated[
        Astrometry | None, Gate("warn above a quarter of the beam, beyond twice the error")
    ]
    """Positions."""
    pointing_offset: PointingOffset | None
    """Pointing."""


class SubbandPart(Model):
    """The image of a part of the band."""

    freq_hz: Hz
    """Its frequency."""
    rms_jy: JyBeam
    """Its median local noise."""


class SubbandImages(Model):
    """``<id>.subbands.fits`` and ``<id>.spectra.csv``."""

    parts: list[SubbandPart]
    """Parts of the band."""
    beam_arcsec: list[Arcsec]
    """Restoring beam of all, FWHM."""
    n_spectra: Count
    """Sources with a spectrum."""
    median_alpha: Number | None
    """Median of their spectral indices."""


class TransientSearch(Model):
    """``<id>.transients.csv``."""

    n_integrations: Count
    """Integrations that were searched."""
    n_found: Count
    """Transients found."""
    brightest: dict[str, Any] | None
    """Row of the one with the highest signal-to-noise ratio."""


class ImageFigures(Figures):
    """``<id>.image.fits``: the tile. A blank one has null, or nothing, for what is of the image."""

    rms_jy: Annotated[JyBeam | None, Gate("fail above `imaging.max_rms_jy`")]
    """Noise, before correction for the beam."""
    rms_min_jy: JyBeam = ABSENT
    """Least local noise."""
    rms_max_jy: JyBeam = ABSENT
    """Greatest local noise."""
    rms_at_peak_jy: JyBeam = ABSENT
    """Local noise at the brightest pixel."""
    peak_jy: JyBeam | None
    """Brightest pixel."""
    trough_jy: Annotated[JyBeam, Gate("warn if deeper than the peak is high")] = ABSENT
    """Faintest pixel."""
    peak_pixel: list[Annotated[int, Unit("pixel")]] = ABSENT
    """Column and row of the brightest pixel, from 0."""
    dynamic_range: Annotated[
        Number | None, Gate("warn below `imaging.min_dynamic_range`, if the noise is not thermal")
    ]
    """Peak over noise."""
    residual_rms_jy: JyBeam = ABSENT
    """Robust rms of the residual."""
    residual_std_jy: JyBeam = ABSENT
    """Standard deviation of the residual."""
    residual_peak_jy: JyBeam = ABSENT
    """Largest absolute value of the residual."""
    pb_max: Number = ABSENT
    """Greatest response of the primary beam."""
    n_visibilities: Annotated[Count, Gate("fail if none")]
    """Visibilities imaged."""
    flagged_fraction: Number
    """Flagged share of the visibilities."""
    thermal_rms_jy: JyBeam | None
    """Noise expected from the visibilities."""
    thermal_natural_rms_jy: JyBeam | None
    """The same with natural weights."""
    rms_over_thermal: Annotated[Number | None, Gate("warn above `imaging.warn_rms_ratio`")]
    """Noise over what is expected."""
    freq_hz: Hz | None
    """Mean frequency, weighted as the image is."""
    beam_major_arcsec: Annotated[Arcsec | None, Gate("fail without")]
    """Restoring beam, FWHM."""
    beam_minor_arcsec: Arcsec | None
    """Restoring beam, FWHM."""
    beam_pa_deg: Deg | None
    """Restoring beam, north through east."""
    selfcal: list[SelfcalRound]
    """Rounds of self-calibration."""
    flux_anchor: FluxAnchor | None
    """What the flux scale rests on; null where that is not known."""
    phase_centre_ra_deg: Deg
    """Right ascension of the phase centre, ICRS."""
    phase_centre_dec_deg: Deg
    """Declination of the phase centre, ICRS."""
    pointing: Pointing
    """Where the array pointed."""
    imager_peak_memory_gb: Gigabytes
    """Memory of the imager at its highest."""
    peak_memory_gb: Gigabytes
    """Memory of the step itself at its highest."""
    catalog: CatalogCheck | None = None
    """The tile against the catalogue."""
    subbands: SubbandImages | None = None
    """Images of parts of the band."""
    transients: TransientSearch | None = None
    """Search for what is in one integration alone."""


# --- photometry -----------------------------------------------------------------------------------


class MedianOffset(Model):
    """Positions of bright, isolated sources, measured minus catalogue, on the sky."""

    n: Count
    """Sources."""
    ra_offset_arcsec: Arcsec
    """Median offset to the east."""
    dec_offset_arcsec: Arcsec
    """Median offset to the north."""
    error_arcsec: Arcsec
    """Error of either median."""
    followed: bool = False
    """Whether fluxes were measured at positions moved by it."""
    brightest: list[tuple[Arcsec, Arcsec, Count]] = []
    """Offsets to the east and north, and signal-to-noise ratio, of the brightest."""


class EpochCards(Model):
    """The correction that a mosaic's header tells; empty for a tile."""

    FLUXSCL: Number = ABSENT
    """Pixels were multiplied by it."""
    FLUXSCLE: Number = ABSENT
    """Its error."""
    FLUXOFF: Jy = ABSENT
    """What is to be added to the fluxes of sources, before they are scaled; not applied."""
    RAOFF: Arcsec = ABSENT
    """What was added to positions, to the east."""
    DECOFF: Arcsec = ABSENT
    """What was added to positions, to the north."""


class PhotometryFigures(Figures):
    """``<id>.photometry.csv``, and that of a night's mosaic."""

    n_sources: Annotated[Count, Gate("warn if none")]
    """Catalogue sources in the field."""
    n_detected: Count
    """Sources above the limit."""
    n_blended: Count
    """Sources blended with others."""
    n_blank: Count
    """Sources on blank pixels."""
    median_flux_ratio: Number | None
    """Median of measured over catalogue flux, of clean sources above 10 sigma."""
    median_local_rms_jy: JyBeam | None
    """Median noise around the sources."""
    astrometry: Annotated[
        MedianOffset | None,
        Gate("of the night: above `qa.max_position_offset` beams, beyond twice the error"),
    ]
    """Median offset of the positions; null below three sources."""
    image_sha256: str
    """Checksum of the image."""
    image_version: str
    """Release that made the image, and when (UTC)."""
    correction: EpochCards
    """Correction of the epoch, from the image's header."""
    flux_anchor: FluxAnchor | None
    """What the flux scale rests on; null where that is not known."""


# --- mosaic, joint, blind -------------------------------------------------------------------------


class MosaicTile(Model):
    """A tile of a mosaic."""

    tile: str
    """Its group."""
    mjd: Mjd
    """Its mean time, UTC."""
    weight: Weight
    """Sum of its weights over pixels."""
    overlap_scatter: Number | None
    """Scatter of its difference from the tiles before, in units of the noise expected."""
    overlap_flux_ratio: Number | None
    """Its brightness over that of the tiles before."""


class EpochCorrection(Model):
    """Correction of an epoch, measured against the catalogue."""

    flux_ratio: Annotated[
        Number, Gate("warn if off 1 by more than `mosaics.mosaic.LARGE_CORRECTION` and 3 errors")
    ]
    """Measured over catalogue flux of the steady sources."""
    flux_ratio_error: Number
    """Its error."""
    flux_offset_jy: Jy
    """What is to be added to a source's flux before it is scaled."""
    flux_offset_error_jy: Jy
    """Its error."""
    n_flux: Count
    """Sources that told it."""
    n_clipped: Count
    """Sources taken for variable."""
    ra_offset_arcsec: Arcsec
    """Measured minus catalogue position, to the east."""
    dec_offset_arcsec: Arcsec
    """Measured minus catalogue position, to the north."""
    position_error_arcsec: Arcsec
    """Error in either direction."""
    n_positions: Count
    """Tiles that told it."""
    scaled: bool
    """Whether the flux scale was applied."""
    moved: bool
    """Whether the shift was applied."""
    FLUXSCL: Number
    """Pixels were multiplied by it."""
    RAOFF_DECOFF_arcsec: tuple[Arcsec, Arcsec]
    """What was added to positions, to the east and north."""


class MosaicFigures(Figures):
    """``mosaic.fits``, ``mosaic_<HH>.fits``."""

    epoch: str
    """Night, and UTC hour of an hourly mosaic."""
    n_tiles: Annotated[Count, Gate("fail if none")]
    """Tiles added."""
    n_left_out: Count
    """Tiles left out."""
    n_images: Count
    """Sections of the sky, one image each."""
    area_deg2: Deg2
    """Area with weight."""
    beam_major_arcsec: Arcsec | None
    """Common beam, FWHM."""
    beam_minor_arcsec: Arcsec | None
    """Common beam, FWHM."""
    beam_pa_deg: Deg | None
    """Common beam, north through east."""
    rms_over_predicted: Number | None
    """Noise in the image over that of the rms map."""
    tiles: list[MosaicTile]
    """Tiles added."""
    left_out: list[LeftOut]
    """Tiles left out."""
    correction: EpochCorrection
    """Correction of the epoch."""
    flux_anchor: FluxAnchor | None
    """What the flux scale rests on; null where that is not known."""


class JointTile(Model):
    """A tile of a joint image."""

    tile: str
    """Its group."""
    beam: Annotated[Number, Gate("left out below `joint.min_beam`")]
    """Its response towards the middle of the field."""
    share: Number
    """Its share of the weight."""


class JointFigures(Figures):
    """``joint_<name>.fits``: a field imaged from the visibilities of its tiles together."""

    epoch: str
    """Night."""
    n_tiles: Count
    """Tiles imaged together."""
    beam_major_arcsec: Arcsec
    """Restoring beam, FWHM."""
    beam_minor_arcsec: Arcsec
    """Restoring beam, FWHM."""
    rms_jy: JyBeam
    """Median noise, corrected for the beam."""
    tiles: list[JointTile]
    """Tiles imaged together."""
    left_out: list[LeftOut]
    """Tiles left out."""


class BlindFigures(Figures):
    """``blind.csv``: sources of a mosaic that the catalogue does not have."""

    n_sources: Count
    """Sources found."""


# --- light curves, catalogue ----------------------------------------------------------------------


class EpochFigures(Model):
    """An epoch of the light curves."""

    epoch: str
    """Night, or group of a tile."""
    mjd: Mjd
    """Median time of its measurements, UTC."""
    table: str
    """Its table, from the folder of the light curves."""
    rejected: bool
    """Whether its photometry failed."""
    image: str
    """Image that was measured, from the folder of the light curves."""
    image_sha256: str
    """Checksum of the image."""
    image_version: str
    """Release that made the image, and when (UTC)."""
    correction: EpochCards
    """Correction of the epoch."""
    steady: Annotated[bool | None, Gate("warn if not")]
    """Whether its calibrators are known to be constant; null where that is not known."""
    RAOFF_arcsec: Arcsec | None
    """Median offset of its positions to the east."""
    DECOFF_arcsec: Arcsec | None
    """Median offset of its positions to the north."""
    offset_error_arcsec: Arcsec | None
    """Error of either."""
    flux_scale: Number
    """Flux scale relative to the ensemble."""
    flux_scale_error: Number
    """Its error."""
    systematic: Number
    """Fractional uncertainty of a flux between epochs."""
    n_reference: Annotated[
        Count,
        Gate("warn below `lightcurves.flux_scale.REFERENCE_N`, and below half of `n_candidates`"),
    ]
    """Steady sources that told the flux scale."""
    n_candidates: Count
    """Sources that could have."""


class LightcurvesFigures(Figures):
    """``lightcurves.parquet``, with ``variability.csv`` and ``candidates.csv``."""

    n_epochs: Count
    """Epochs."""
    n_sources: Count
    """Sources."""
    n_candidates: Count
    """Sources that pass the thresholds for variability."""
    n_tables_read: Count
    """Tables that were new or had changed."""
    epochs: list[EpochFigures]
    """Epochs, in order of time."""
    n_measurements: Count
    """Measurements."""
    template_trials: Number
    """Independent trials of templates, which false alarms are counted against."""


class CatalogFigures(Figures):
    """``*.parquet`` of ``contimg catalog``: a reference catalogue."""

    n_sources: Count
    """Sources."""
    flux_jy: Jy
    """Sum of their fluxes."""


#: Step -> the figures of its products.
FIGURES: dict[str, type[Figures]] = {
    "group": GroupFigures,
    "convert": ConvertFigures,
    "calibrate": CalibrateFigures,
    "apply": ApplyFigures,
    "image": ImageFigures,
    "photometry": PhotometryFigures,
    "mosaic": MosaicFigures,
    "joint": JointFigures,
    "blind": BlindFigures,
    "lightcurves": LightcurvesFigures,
    "catalog": CatalogFigures,
}


# --- what is said of them -------------------------------------------------------------------------


@dataclass(frozen=True)
class Description:
    """A figure in words.

    Attributes
    ----------
    name : str
        Key; with dots within a figure of several parts.
    kind : type
        Type of its value, or of the values in its lists and tables.
    shape : {"", "list", "table"}
        Whether it is one value, a list (of lists) or a table by name.
    unit, meaning, gate : str
        Empty where there is none.
    """

    name: str
    kind: type
    shape: str
    unit: str
    meaning: str
    gate: str

    @property
    def is_single(self) -> bool:
        """Tell whether it is one number, word or truth."""
        return not self.shape and self.kind in (bool, int, float, str)


def describe(model: type[Model], prefix: str = "") -> Iterator[Description]:
    """Yield what there is to say of each figure of a model; parts follow what they are part of."""
    texts = meanings(model)
    for name, info in model.model_fields.items():
        kind, shape, notes = _resolve(info)
        unit = next((note.name for note in notes if isinstance(note, Unit)), "")
        gate = next((note.text for note in notes if isinstance(note, Gate)), "")
        yield Description(prefix + name, kind, shape, unit, texts[name].replace("\n", " "), gate)
        if issubclass(kind, Model):
            yield from describe(kind, f"{prefix}{name}{'[]' if shape else ''}.")


def _resolve(info: FieldInfo) -> tuple[Any, str, list[Any]]:
    """Return the type of a field's values, how they are arranged, and what is noted of them."""
    notes, shape, kind = list(info.metadata), "", info.annotation
    while True:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is Annotated:
            kind, notes = arguments[0], [*arguments[1:], *notes]
        elif origin in (typing.Union, types.UnionType):
            (kind,) = (a for a in arguments if a is not types.NoneType)
        elif origin is Literal:
            return str, shape, notes
        elif origin is dict and arguments[1] is not Any:
            kind, shape = arguments[1], shape or "table"
        elif origin in (list, tuple):
            kind, shape = arguments[0], shape or "list"
        else:
            return origin or kind, shape, notes
