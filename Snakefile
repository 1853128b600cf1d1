# DSA-110 continuum imaging: raw correlator files to light curves.
#   snakemake --cores 2          all that the incoming folder allows
#   ./contimg run                the same, with set-up and progress
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.current_basedir.get_path_or_uri(secret_free=True)}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/imaging.smk"
include: "workflow/rules/mosaic.smk"
include: "workflow/rules/lightcurves.smk"
include: "workflow/rules/report.smk"


onstart:
    try:
        frozen.begin(CONFIG, PLAN)
        name_configuration(CONFIG)
    except ContimgError as error:
        sys.exit(f"contimg: {error}")


localrules:
    all,


rule all:
    default_target: True
    input:
        targets(),
