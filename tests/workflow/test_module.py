"""The workflow as a module of another, as the Snakemake workflow catalogue describes it."""

import pytest
import yaml

from support import REPO

OTHER = """
module contimg:
    snakefile: {snakefile!r}
    config: {{"incoming": "incoming", "results": "theirs", "catalog": "demo/catalog.csv"}}

use rule * from contimg as contimg_*

use rule image from contimg as contimg_image with:
    resources:
        mem_mb=1234,

rule summary:
    input:
        rules.contimg_all.input,
    output:
        "summary.txt",
    default_target: True
    shell:
        "echo {{input}} > {{output}}"
"""


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_another_workflow_runs_it_with_its_own_configuration(dag_folder, snakefile):
    dag_folder.add_night(0)
    other = dag_folder.path / "Snakefile"
    other.write_text(OTHER.format(snakefile=str(REPO / snakefile)))
    done = dag_folder.snakemake("-s", str(other), "--cores", "2", "--quiet", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    names = (dag_folder.path / "summary.txt").read_text().split()
    assert names and all(name.startswith("theirs/") for name in names)
    assert (dag_folder.path / "theirs/lightcurves/candidates.csv").is_file()
    assert not (dag_folder.path / "results").exists()


def test_the_catalogue_finds_what_it_looks_for():
    usage = yaml.safe_load((REPO / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"]
    assert (REPO / "workflow/Snakefile").is_file()
    assert (REPO / "config/README.md").is_file()
