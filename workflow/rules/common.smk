# Every function of the workflow: configuration, plan, names of products, inputs of rules.
import shlex
import sys
from pathlib import Path

# Of this file, not of the main Snakefile: the workflow may be a module of another.
RULES = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))
SRC = RULES.parents[1] / "src"
if not SRC.is_dir():
    sys.exit(f"contimg: no package in {SRC}: as a module, the workflow must be on disk")
sys.path.insert(0, str(SRC))

from dsa110_contimg.core.code import step_hash
from dsa110_contimg.core.config import load_config, named_from, to_args
from dsa110_contimg.core.errors import ContimgError
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.places import home_of, script
from dsa110_contimg.core.provenance import name_configuration
from dsa110_contimg.core.steps import FROM_FILE
from dsa110_contimg.core.times import GROUP_ID, night_of
from dsa110_contimg.core.tools import present
from dsa110_contimg.imaging.presets import optional_products
from dsa110_contimg.operations import frozen, mends, notes, planning
from dsa110_contimg.operations.targets import (
    MOSAIC_MAPS,
    TILE_MAPS,
    all_targets,
    pages,
    view,
)

planning.prepare_jobs(SRC)
mends.mend(RULES)

try:
    CONFIG = load_config(config)
    HOME = home_of(CONFIG.results) if workflow.overwrite_workdir is None else Path.cwd()
except ContimgError as error:
    sys.exit(f"contimg: {error}")

# State and names of products do not depend on where one stands. Whose module this is decides itself.
if workflow.modifier.parent_modifier is None:
    CONFIG = named_from(CONFIG, HOME)

    workdir: HOME


try:
    PLAN = frozen.plan_of(CONFIG, None if workflow.is_main_process else sys.argv)
    OPTIONAL = optional_products(CONFIG.imaging)  # of each tile
except ContimgError as error:
    sys.exit(f"contimg: {error}")

LAYOUT = Layout(CONFIG.results)


if workflow.is_main_process:
    # What was noted of nights that were closed meanwhile.
    notes.unpack(LAYOUT, PLAN.nights)
    # Of a module no `onstart` is run: the lists that its steps read are written here.
    if workflow.modifier.parent_modifier is not None and not workflow.dryrun:
        frozen.begin(CONFIG, PLAN)


# Closed nights, and tiles whose data were purged, match no rule: their products are taken as they are.
wildcard_constraints:
    group=planning.excluding(PLAN.settled) + GROUP_ID,
    night="|".join(PLAN.nights) or "none",
    hour=r"\d{2}",
    field=r"[A-Za-z0-9.+-]+",


def tile(kind):
    """Name of a product of a group, with wildcards."""
    return str(LAYOUT.group("{group}", kind, night="{night}"))


def nightly(name):
    """Name of a product of a night, with wildcards; nights that stay as they are match none."""
    nights = "|".join(PLAN.epochs) or "none"
    return str(LAYOUT.night(f"{{night,{nights}}}", name))


def curves(name):
    """Name of a product over all nights."""
    return str(LAYOUT.lightcurves(name))


def log_of(*parts):
    """Name of a rule's log."""
    return str(LAYOUT.log(*parts))


def timing_of(*parts):
    """Name of a rule's record of time and memory."""
    return str(LAYOUT.timing(*parts))


def options(*sections):
    """Options of a step, as on its command line; a default that changes is a change, too."""
    return shlex.join(
        arg for name in sections for arg in to_args(getattr(CONFIG, name))
    )


def step(name, arguments):
    """Command that runs a step's script, its output in the log."""
    path = shlex.quote(str(script(name))).replace("{", "{{").replace("}", "}}")
    return f"python {path} {arguments} > {{log:q}} 2>&1"


def tools(name):
    """Versions of what a step's numbers rest on: another one remakes what the step made."""
    return [" ".join(tool) for tool in sorted(present(name, CONFIG).items())]


def code(step):
    """Hash of the code behind a step: its change remakes what the step made."""
    return step_hash(step)


def tables(group):
    """Calibration tables of a calibrator's group."""
    return [str(LAYOUT.group(group, kind)) for kind in ("kcal", "bcal", "gcal")]


def subbands(wildcards):
    """Raw files of a group, highest frequency first."""
    files = PLAN.groups[wildcards.group].files
    return [str(files[subband]) for subband in sorted(files)]


def candidates(wildcards):
    """Tables of the calibrations that may serve a group, in order of preference."""
    return [
        t
        for group in PLAN.calibration.candidates[wildcards.group]
        for t in tables(group)
    ]


def candidate_options(wildcards):
    """The same as options of the step."""
    groups = PLAN.calibration.candidates[wildcards.group]
    return shlex.join(
        a for g in groups for a in ("--candidate", str(LAYOUT.group(g) / g))
    )


def calibrator(wildcards):
    """Name of the calibrator that transits during a group."""
    return PLAN.calibration.transits[wildcards.group]


def calibrator_table():
    """Option that names the user's calibrators."""
    return (
        ""
        if CONFIG.calibrators is None
        else shlex.join(["--calibrators", str(CONFIG.calibrators)])
    )


def inventory_option():
    """Option that names the inventory that this run began with."""
    return shlex.join(["--inventory", str(frozen.inventory_path(LAYOUT))])


def night_tables_option():
    """Option that names the tables of all nights, by file: a command line ends at 128 kB."""
    return shlex.join([FROM_FILE, str(frozen.tables_path(LAYOUT))])


def folder_of(wildcards, output):
    """Folder that a step works in."""
    return str(Path(output[0]).parent)


def images(groups):
    """Images of some groups."""
    return [str(LAYOUT.group(group, "image.fits")) for group in groups]


def tile_tables(groups):
    """Photometry of some groups."""
    return [str(LAYOUT.group(group, "photometry.csv")) for group in groups]


def hour_images(wildcards):
    return images(PLAN.epochs[wildcards.night].hours[wildcards.hour])


def hour_photometry(wildcards):
    return tile_tables(PLAN.epochs[wildcards.night].hours[wildcards.hour])


def night_images(wildcards):
    return images(PLAN.epochs[wildcards.night].tiles)


def night_tables(wildcards):
    return tile_tables(PLAN.epochs[wildcards.night].tiles)


def again(kind):
    """Calibrated data of a group that are made once more for a field, with wildcards."""
    folder = LAYOUT.group("{group}", night="{night}") / "joint_{field}"
    return str(folder / f"{{group}}.{kind}")


def field_sets(kind):
    """The same of the tiles of a field."""
    return lambda wildcards: [
        again(kind).format(group=group, **wildcards)
        for group in PLAN.joint[wildcards.night][wildcards.field]
    ]


def field_tiles(kind):
    """A product of the tiles of a field."""
    return lambda wildcards: [
        str(LAYOUT.group(group, kind))
        for group in PLAN.joint[wildcards.night][wildcards.field]
    ]


def field_place(wildcards):
    """Centre and radius of a field."""
    return CONFIG.joint.fields[wildcards.field]


def joint_options():
    """Options of joint imaging; a field more is no reason to image the others again."""
    return shlex.join(to_args(CONFIG.joint.model_copy(update={"fields": {}})))


def night_products(wildcards):
    """What the verdict on a night rests on."""
    return [
        path
        for group in PLAN.epochs[wildcards.night].tiles
        for path in (
            LAYOUT.group(group, "ms.json"),
            LAYOUT.group(group, "photometry.csv"),
        )
    ]


def night_mosaics(wildcards):
    """Sidecars of a night's mosaics, those of its hours among them: all are judged."""
    hours = (f"mosaic_{hour}" for hour in PLAN.epochs[wildcards.night].hours)
    return [
        str(LAYOUT.night(wildcards.night, f"{name}.fits.json"))
        for name in ("mosaic", *hours)
    ]


def night_view(wildcards):
    """Small copy of a night's mosaic, if it can be made."""
    return view(PLAN, LAYOUT, wildcards.night)


def night_pages(wildcards):
    """Pages of a night's tiles and calibrations; what was purged keeps the page that it has."""
    groups = [g for g in PLAN.groups if night_of(g) == wildcards.night]
    return pages(PLAN, LAYOUT, groups)


def every_night(name):
    """One product of all nights that are measured, or of those that have a verdict as well."""
    nights = PLAN.judged_nights if name == "qa.json" else PLAN.measured_nights
    return [str(LAYOUT.night(night, name)) for night in nights]


def stamp(wildcards):
    """What changes when a raw file of a group does, also where its copy is dated earlier."""
    return PLAN.groups[wildcards.group].stamp


def shown(path):
    """Mark a page or table for `snakemake --report`; what is missing is left out, not an error."""
    name, night = Path(path).name, Path(path).parent.name
    if name == "report.html" and Path(path).exists():
        return report(
            path,
            caption="workflow/report/night.rst",
            category="Nights",
            labels={"night": night},
        )
    if name == "candidates.csv" and Path(path).exists():
        return report(
            path,
            caption="workflow/report/candidates.rst",
            category="Variable sources",
            labels={"table": "candidates"},
        )
    return path


def targets():
    """Every product that is kept: one that is deleted is made again. What runs a job needs none."""
    if not workflow.is_main_process:
        return []
    return [shown(path) for path in all_targets(PLAN, LAYOUT)]
