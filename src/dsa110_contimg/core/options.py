"""Configuration: one typed model a section, the only source of schema, defaults and options.

From the models here come the validation of ``config/config.yaml``, its JSON schema
(``config/config.schema.json``), the option tables of the documentation, and the command-line
options of the steps. A step receives its section as a model; a rule passes what differs from the
defaults as options on the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from .described import Described

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Options(Described, BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InventoryOptions(Options):
    """Which files make a group, and when a group is ready."""

    min_subbands: Annotated[int, Field(ge=1, le=16)] = 14
    """Fewest subbands that make a usable (degraded) group."""
    wait_s: NonNegative = 3600.0
    """How long after the last file arrived a group waits for its absent subbands, s."""
    settle_s: NonNegative = 0.0
    """A file whose last change is younger than this is still being written, s."""
    name_tolerance_s: Annotated[float, Field(ge=0, le=150)] = 60.0
    """Spread of file names within a group, used only where headers cannot be read, s."""


class ConversionOptions(Options):
    """UVH5 to Measurement Set."""

    writer: Literal["auto", "direct", "pyuvdata"] = "auto"
    """``direct`` streams; ``pyuvdata`` is the reference; ``auto`` takes the reference up to two
    subbands."""
    workers: Annotated[int, Field(ge=0, le=64)] = 2
    """Processes that read and rotate, of the ``direct`` writer; 0 does all in one process."""
    scratch: Path | None = None
    """Folder to build the Measurement Set in before it is moved to its place (a tmpfs, say)."""


class FlaggingOptions(Options):
    """Flags set on the raw visibilities, inside the conversion."""

    engine: Literal["aoflagger", "casa", "none"] = "aoflagger"
    """What finds interference."""
    clip_amplitude: Positive = 0.5
    """Raw cross-correlation amplitude above which a sample is flagged (1 Jy is about 0.0045)."""
    mad_sigma: Positive = 7.0
    """Upper-sided clip after the engine, in robust standard deviations."""
    extend: bool = True
    """Extend flags to the other polarisation and into single-sample gaps in time and frequency."""
    dead_antenna_fraction: Fraction = 0.95
    """An antenna with more than this fraction flagged is flagged whole."""
    timeout_s: Positive = 900.0
    """Time limit of the engine, s."""


class CalibrationOptions(Options):
    """Calibrator choice, solving and assignment of solutions."""

    mode: Literal["standard", "quick"] = "standard"
    """``quick`` averages before solving and solves gains for phase only."""
    delay: bool = True
    """Solve and apply delays (K)."""
    min_flux_jy: Positive = 1.0
    """Least beam-weighted flux of a calibrator at transit, Jy."""
    min_field_share: Fraction = 0.15
    """Least share of the calibrator in the beam-weighted flux of its field."""
    max_offset_deg: Positive = 1.0
    """Greatest distance in declination between calibrator and pointing, deg."""
    validity_h: Positive = 24.0
    """Longest time between solution and target before a solution counts as borrowed, h."""
    borrow_days: NonNegative = 30.0
    """Longest time between a borrowed solution and target, days."""
    strip_deg: Positive = 5.0
    """Greatest difference in declination between solution and target, deg."""
    uvmin_klambda: NonNegative = 1.0
    """Shortest baseline used in solving, kilo-wavelengths."""
    min_snr: Positive = 3.0
    """Solutions below this signal-to-noise ratio are flagged."""
    gain_interval_s: NonNegative = 60.0
    """Running mean with which gains follow drifts within the calibrator's tile, where its flux
    allows; 0: one gain a tile, s."""
    timeout_s: Positive = 900.0
    """Time limit of the preparation of the data, s."""


class ApplyOptions(Options):
    """Calibrated, averaged data for imaging."""

    engine: Literal["direct", "casa"] = "direct"
    """``direct`` streams, on all cores; ``casa`` (mstransform) is the reference."""
    timeout_s: Positive = 1800.0
    """Time limit of CASA."""
    max_smearing: Fraction = 0.02
    """Largest flux that averaging may cost a point source at half power of the beam (mean over
    baselines). Fluxes are corrected for it; what remains is that such a source is wider."""


class ImagingOptions(Options):
    """Tiles."""

    preset: Literal["quick", "standard", "deep"] = "standard"
    """Set of defaults for the keys below that are not given."""
    engine: Literal["wsclean", "tclean"] = "wsclean"
    """Imager."""
    size_px: Annotated[int, Field(ge=64, le=16384, multiple_of=2)] | None = None
    """Image size, pixels, even (preset)."""
    cell_arcsec: Positive | None = None
    """Pixel size, arcsec (preset)."""
    robust: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Briggs robustness (preset)."""
    niter: Annotated[int, Field(ge=0)] | None = None
    """Most clean components (preset)."""
    mgain: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the peak that one major cycle removes (preset)."""
    auto_mask_sigma: Positive | None = None
    """Clean down to this many times the noise, then only where components were found (preset)."""
    auto_threshold_sigma: Positive | None = None
    """Stop cleaning at this many times the noise (preset)."""
    spectral_terms: Annotated[int, Field(ge=1, le=4)] | None = None
    """Terms of the polynomial in frequency fitted to each clean component (preset)."""
    seed_jy: Positive | None = None
    """Catalogue sources whose flux times beam is at least this are subtracted from the visibilities
    before cleaning, as they drift through the beam, and restored afterwards, Jy (preset)."""
    seed_most: Annotated[int, Field(ge=0)] | None = None
    """Most sources treated so, the brightest first; 0: none (preset)."""
    mask_radius_arcsec: NonNegative | None = None
    """Clean only within this distance of catalogue sources, arcsec; 0: everywhere (preset)."""
    selfcal: bool | None = None
    """Self-calibrate on the tile's own image, where that makes it better (preset; WSClean only)."""
    uvmin_lambda: NonNegative = 1000.0
    """Shortest baseline, wavelengths."""
    pb_limit: Fraction = 0.2
    """Primary-beam response below which the corrected image is blank."""
    correlator_smearing: bool = False
    """Count what the correlator's own integrations and channels cost sources off the centre, too
    (0.5 % at half power of the beam at declination 33, 1.2 % at 60), not just later averaging.
    Simulated data have no such smearing unless asked for."""
    subband_images: Annotated[int, Field(ge=0, le=64)] = 0
    """Images of so many parts of the band (``<id>.subbands.fits``) and the spectral indices of the
    catalogue's sources (``<id>.spectra.csv``); 0: none. Needs WSClean."""
    transients: bool = False
    """Image each integration without the known sources and note what is in one alone
    (``<id>.transients.csv``). Needs WSClean."""
    transient_sigma: Annotated[float, Field(ge=4)] = 6.0
    """Least signal-to-noise ratio of a transient."""
    wsclean: dict[str, str] = {}
    """WSClean options that override those of the preset, e.g. ``{mgain: "0.6"}``; an empty value
    gives a bare option, ``off`` drops one."""
    timeout_s: Positive = 1800.0
    """Time limit of one attempt of the imager, s."""
    max_rms_jy: Positive = 0.1
    """A tile with more noise than this fails, Jy/beam."""
    warn_rms_ratio: Positive = 2.0
    """A tile whose noise exceeds the thermal noise by more than this factor is marked."""
    min_dynamic_range: NonNegative = 100.0
    """A tile with a worse dynamic range is marked, if its noise is not thermal either."""
    max_flux_scale_error: Positive = 0.2
    """A tile whose median flux ratio to the catalogue differs from 1 by more fails."""
    warn_pointing_deg: Positive = 0.1
    """A tile whose flux ratios show a larger pointing error is marked, deg."""
    min_completeness: Fraction = 0.8
    """A tile that shows less of the sources expected at ten times its noise is marked."""


class SelfcalOptions(Options):
    """Self-calibration, in the imaging of a tile."""

    phase_s: tuple[NonNegative, ...] = (0.0, 120.0, 60.0)
    """Intervals of the rounds of phases, s; 0: the whole tile."""
    amplitude_s: tuple[NonNegative, ...] = (0.0, 0.0)
    """Intervals of the rounds of amplitudes and phases that follow, s; 0: the whole tile."""
    min_snr: Positive = 5.0
    """Solutions below this signal-to-noise ratio are not applied."""
    max_flagged: Fraction = 0.3
    """A round with more than this share of its solutions below `min_snr` is not accepted."""
    least_gain: NonNegative = 0.05
    """A round is accepted only if the dynamic range grows by at least this fraction."""
    flux_tolerance: Fraction = 0.02
    """A round of amplitudes that changes the fluxes of bright sources by more, beyond what the
    errors it takes out explain, is not accepted, nor one of phases that lowers them by more."""


class PhotometryOptions(Options):
    """Forced photometry."""

    min_flux_jy: NonNegative = 0.01
    """Faintest catalogue source to measure, Jy."""
    pb_limit: Fraction = 0.2
    """The field of a tile is where its primary beam is at least this."""
    upper_limit_sigma: Positive = 5.0
    """Upper limits are this many times the local rms."""
    follow_offset: bool = True
    """Measure at catalogue positions moved by the image's median position offset, where it is
    significant and above a fiftieth of the beam."""


class MosaicOptions(Options):
    """Hourly and nightly mosaics."""

    overlap_tiles: Annotated[int, Field(ge=0)] = 2
    """Tiles of the neighbouring hours that join an hourly mosaic on either side."""
    pb_limit: Fraction = 0.2
    """Tiles are cut where their beam falls below this."""
    correct_epoch: bool = True
    """Bring the epoch onto the catalogue's flux scale and positions, where it is significantly off;
    the correction is measured in the photometry of its tiles and recorded in the headers."""


class JointOptions(Options):
    """Fields that are imaged from the visibilities of all their tiles together."""

    fields: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+$")], str] = {}
    """Centre (ICRS) and radius of each field, deg: ``{NAME: "RA DEC RADIUS"}``. Each night that has
    two tiles or more of a field gets ``joint_NAME.fits``."""
    cell_arcsec: Positive = 6.0
    """Pixel size, arcsec."""
    margin_deg: NonNegative = 1.2
    """How far beyond the field sources are cleaned, too, deg."""
    robust: Annotated[float, Field(ge=-2, le=2)] = 0.5
    """Briggs robustness."""
    niter: Annotated[int, Field(ge=1)] = 30000
    """Most clean components of a cycle."""
    cycles: Annotated[int, Field(ge=1, le=10)] = 3
    """Runs of the imager; between them the model is taken out of each tile as its beam shows it."""
    min_beam: Fraction = 0.3
    """A tile with less beam towards the field's centre is left out."""
    pb_limit: Fraction = 0.3
    """The image is blank where sources appear with less than this part of the best response."""
    timeout_s: Positive = 7200.0
    """Time limit of the imager, s."""

    @field_validator("fields")
    @classmethod
    def _three_numbers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            numbers = [float(word) for word in text.split()]  # a ValueError is reported
            if len(numbers) != 3:
                raise ValueError(f"{name} must be 'RA DEC RADIUS' in deg")
        return value


class BlindOptions(Options):
    """Search of a night's mosaic for sources that the catalogue does not have."""

    enabled: bool = True
    """Whether nights are searched."""
    threshold_sigma: Positive = 7.0
    """Least signal-to-noise ratio of a source, in the mosaic and in its fit."""
    timeout_s: Positive = 900.0
    """Time limit of the search; a night that exceeds it has an empty list that failed, s."""


class LightcurveOptions(Options):
    """Light curves and variability."""

    min_snr: NonNegative = 5.0
    """A candidate was seen at this signal-to-noise ratio in one epoch at least."""
    systematic_floor: Fraction = 0.01
    """Least fractional uncertainty of a flux between epochs; a larger one is fitted."""
    false_alarm: Annotated[float, Field(gt=0, le=1)] = 5e-4
    """Probability above which a constant source is not called a candidate."""
    eta_threshold: Positive = 2.5
    """Sources with eta above this and V above `v_threshold` are candidates."""
    v_threshold: NonNegative = 0.1
    """See `eta_threshold`."""
    amplitude_threshold: NonNegative = 0.03
    """Least fractional amplitude of the template of an extreme scattering event or a flare, for a
    source that follows it to be a candidate whatever its eta and V."""


class QaOptions(Options):
    """Gates of a whole night; tiles are judged by the steps that make them."""

    max_flux_offset: Positive = 0.1
    """Largest deviation of the median measured flux from the catalogue, beyond twice its error."""
    min_completeness: Fraction = 0.8
    """Least share of the sources expected at 10 sigma that is detected at 5."""
    min_sources: Annotated[int, Field(ge=1)] = 5
    """Fewest sources that can tell anything about the flux scale."""
    max_position_offset: Positive = 0.25
    """Largest median offset of positions from the catalogue, in minor axes of the beam, beyond
    twice its error."""
    max_pointing_offset_deg: Positive = 0.1
    """Largest significant distance between where the beams point and where they are assumed to,
    from the flux ratios of the night's tiles, deg."""


class OperationsOptions(Options):
    """Unattended runs."""

    budget_s: Positive = 3600.0
    """Time after which a tick starts no further job, s."""
    close_after_s: NonNegative = 900.0
    """How long the files of a UTC day's last tile may take to arrive before the night closes, s."""
    min_free_gb: NonNegative = 10.0
    """Free space on the disk of the results, GB, below which no work starts."""
    space_factor: Positive = 2.5
    """Space that a tile needs, in units of its raw files: the Measurement Set, the calibrated data
    while they exist, the maps."""
    heartbeat_s: Positive = 60.0
    """How often a run at work shows how it is (``.heartbeat``, metrics, alerts), s."""
    end_s: Positive = 14400.0
    """How long jobs at work may take to end, after the budget or a request to end, s; then they are
    ended, and made again by the next run."""
    cluster_wait_s: Positive = 3600.0
    """How long a job on a cluster that was preempted, suspended or held may take to go on, and the
    controller to answer, s; then it is given up, and made again by the next run."""
    upgrades: Literal["automatic", "canary"] = "automatic"
    """A release that decides numbers differently from the one before goes on and says so, or waits
    until a night that it made again was accepted (``contimg upgrade``)."""


class RetentionOptions(Options):
    """What ``contimg purge`` removes of closed nights, and when.

    Days count from the closing of a night; empty: kept. Of a tile that failed nothing goes. Images,
    measurements, calibration tables, mosaics, light curves, reports, and all sidecars are never
    removed.
    """

    automatic: bool = False
    """Whether ticks remove Measurement Sets and maps; otherwise only ``contimg purge --yes`` does.
    Logs and records of runs go by themselves."""
    ms_days: NonNegative | None = 30.0
    """Group files and Measurement Sets of groups whose image and photometry passed."""
    calibrator_ms_days: NonNegative | None = 90.0
    """The same, of groups that a calibration was solved on."""
    maps_days: NonNegative | None = 90.0
    """Maps that help to judge a tile: ``psf``, ``model``, ``residual``, ``pbcor``."""
    raw_days: NonNegative | None = None
    """Raw files that groups whose image and photometry passed were made from; ``contimg purge``
    wants ``--raw``, too, and a verified copy in the archive."""
    logs_days: NonNegative | None = 90.0
    """Logs and timings of jobs."""
    runs_days: NonNegative | None = 365.0
    """Records of runs, by their own age; of more than 10,000 the oldest go before."""


class ArchiveOptions(Options):
    """Where ``contimg archive`` copies closed nights to, and how. Copies are read back."""

    target: Annotated[str, Field(pattern=r"^[^-\s]")] | None = None
    """A folder (of a mounted disk), ``HOST:FOLDER`` for rsync by ssh, or ``REMOTE:FOLDER`` of
    rclone; it must exist. Empty: there is no archive."""
    tool: Literal["rsync", "rclone"] = "rsync"
    """What copies."""
    automatic: bool = False
    """Whether ticks archive, when they are done; otherwise only ``contimg archive --yes`` does."""
    products: bool = False
    """Whether the products that are never removed are archived, too, beside the raw files."""
    budget_s: Positive = 300.0
    """Time after which a tick copies no further part (64 files or 20 GB), s."""
    bandwidth_mb_s: Positive | None = None
    """Greatest rate of the copying, MB/s; empty: unlimited."""
    timeout_s: Positive = 7200.0
    """Time limit of the copying, or of the checking, of a part, s."""


class AlertsOptions(Options):
    """Who is told of troubles, and from when on. Without ``webhook`` and ``mail_to``, nobody."""

    webhook: SecretStr | None = None
    """URL that a JSON object with ``text`` (as Slack and Mattermost take it) and ``alerts`` is
    posted to. A secret: it is shown nowhere. ``CONTIMG_WEBHOOK``, in the environment or as a
    credential of systemd (``webhook``), replaces it."""
    ping: SecretStr | None = None
    """URL of a dead man's switch (Healthchecks and the like), which is fetched each time a run has
    looked at itself: a service that tells when nobody has asked for a while."""
    mail_to: list[str] = []
    """Addresses to send mail to."""
    mail_from: str = "contimg@localhost"
    """Sender of the mail."""
    mail_host: str = "localhost"
    """Mail server, ``HOST`` or ``HOST:PORT``. Port 465 is taken as TLS; on others STARTTLS is used
    where it is offered, but to this machine without a login. Certificates are checked."""
    mail_user: str | None = None
    """User at the mail server, who is sent over TLS only."""
    mail_password_file: Path | None = None
    """File with the user's password; otherwise it is ``CONTIMG_MAIL_PASSWORD`` in the environment
    or a credential of systemd (``mail_password``)."""
    mail_ca: Path | None = None
    """Certificates that the mail server's is checked by, instead of the system's."""
    mail_plain_login: bool = False
    """Log in without TLS, to a server on this machine that offers none."""
    min_severity: Literal["info", "warning", "critical"] = "warning"
    """Least severity that is told."""
    repeat_h: Positive = 24.0
    """Time after which a trouble that lasts is told again, h."""
    silence_min: Positive | None = 60.0
    """Time without new data that is told, min; empty: never."""
    stale_calibration_h: Positive | None = 24.0
    """Age of the last good calibration, at the last data, that is told, h."""
    backlog: Annotated[int, Field(ge=1)] | None = 100
    """Number of tiles waiting to be made that is told."""
    failure_rate: Annotated[float, Field(gt=0, le=1)] | None = 0.1
    """Share of the jobs of an hour that failed that is told, from the second failure on."""
    disk_free: Fraction | None = 0.15
    """Free share of a disk below which it is told."""
    stuck_min: Positive | None = 30.0
    """Time that a run may work without finishing a product, or be silent, min."""
    absent_min: Positive | None = 15.0
    """Time without any run that ``contimg watch`` tells, min."""
    late_h: Positive | None = 6.0
    """Time that a night may stay open after its end, or after data came late, h."""
    slow: Positive | None = 1.0
    """With tiles waiting: data of an hour that are done in an hour, below which it is told."""
    metrics: Path | None = None
    """File for Prometheus' text-file collector; otherwise ``metrics.prom`` in the results
    folder."""


class Config(Options):
    """The whole configuration file."""

    incoming: Path = Path("incoming")
    """Folder the correlator's files arrive in."""
    results: Path = Path("results")
    """Folder for all products."""
    catalog: Path | None = None
    """Reference catalogue: CSV with ``name,ra_deg,dec_deg,flux_jy[,alpha]`` (flux at 1.4 GHz), or
    Parquet as ``contimg catalog`` makes it; of one survey."""
    calibrators: Path | None = None
    """Further calibrators: CSV with the same columns, beside the built-in flux standards."""
    release: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")] | None = None
    """Release that the file was written for: an older one leaves out the keys that it does not
    know, and says so, where it would refuse them."""
    inventory: InventoryOptions = InventoryOptions()
    conversion: ConversionOptions = ConversionOptions()
    flagging: FlaggingOptions = FlaggingOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    apply: ApplyOptions = ApplyOptions()
    imaging: ImagingOptions = ImagingOptions()
    selfcal: SelfcalOptions = SelfcalOptions()
    photometry: PhotometryOptions = PhotometryOptions()
    mosaic: MosaicOptions = MosaicOptions()
    joint: JointOptions = JointOptions()
    blind: BlindOptions = BlindOptions()
    lightcurves: LightcurveOptions = LightcurveOptions()
    qa: QaOptions = QaOptions()
    operations: OperationsOptions = OperationsOptions()
    retention: RetentionOptions = RetentionOptions()
    archive: ArchiveOptions = ArchiveOptions()
    alerts: AlertsOptions = AlertsOptions()
