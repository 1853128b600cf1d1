"""`./contimg run -- --config incoming=X results=Y`: one meaning wherever it stands, or a refusal.

Results and catalogue were taken from it, incoming files from the default, failures left there.
"""

import sys

import pytest

from dsa110_contimg.commands import configuration, run
from dsa110_contimg.core.errors import ConfigError
from support.night import Operations, raw_groups

SETTINGS = (
    *("incoming=elsewhere/incoming", "results=elsewhere/results", "inventory.wait_s=0"),
    *("operations.close_after_s=0", "operations.min_free_gb=0.1"),
)


class Bare(Operations):
    """A working folder whose commands get no configuration by themselves."""

    def command(self, *arguments, wait_s=0.0):
        return [sys.executable, "-m", "dsa110_contimg", *arguments]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    path = tmp_path_factory.mktemp("meaning")
    work = Bare.make(path)
    (path / "elsewhere/incoming").mkdir(parents=True)
    for groups in raw_groups(path / "raw", 1):
        for file in groups:
            file.rename(path / "elsewhere/incoming" / file.name)
    return work


def test_all_products_go_where_the_configuration_after_the_dashes_says(work):
    status, output = work.call("run", "--", "--config", *SETTINGS, "--cores", "2")
    assert status == 0, output
    made = work.path / "elsewhere/results"
    assert list(made.glob("nights/*/report.html"))
    assert list(made.glob("runs/*.json"))
    assert (made / "index.sqlite").exists()
    assert not work.results.exists()


def test_it_is_the_same_run_as_with_the_configuration_before_the_dashes(work):
    done = len(work.ledger())
    assert done
    status, output = work.call("run", "--config", *SETTINGS, "--", "-c2")
    assert status == 0, output
    assert len(work.ledger()) == done
    assert not work.results.exists()


#: What follows ``--``; what the launcher takes of it; what is left to Snakemake.
TAKEN = [
    ("--config a=1 b=2 --forcerun image", {"config": ["a=1", "b=2"]}, "--forcerun image"),
    ("--config=a=1 -C b=2", {"config": ["a=1", "b=2"]}, ""),
    ("-Ca=1", {"config": ["a=1"]}, ""),
    ("-n --configfile x.yaml y.yaml", {"configfile": ["x.yaml", "y.yaml"]}, "-n"),
    ("--configfiles x.yaml --configfile=y.yaml", {"configfile": ["x.yaml", "y.yaml"]}, ""),
    ("--profile default", {"profile": "default"}, ""),
    ("--workflow-profile=default", {"profile": "default"}, ""),
    ("--cores 3", {"cores": "3"}, ""),
    ("--cores", {"cores": "all"}, ""),
    ("-c4 -k", {"cores": "4"}, "-k"),
    ("-npj4", {"cores": "4"}, "-np"),
    ("-j 4 --until image", {"cores": "4"}, "--until image"),
    ("--until image --rerun-triggers mtime", {}, "--until image --rerun-triggers mtime"),
]


@pytest.mark.parametrize(("words", "taken", "left"), TAKEN)
def test_what_is_the_launchers_own_is_taken(words, taken, left):
    args = run.argparser().parse_args(["2026-02-10", "--", *words.split()])
    for name, value in taken.items():
        got = getattr(args, name)
        got = [str(g) for g in got] if isinstance(got, list) else got and str(got).split("/")[-1]
        assert got == value
    assert args.snakemake == left.split()
    assert args.targets == ["2026-02-10"]


def test_later_values_win_wherever_they_stand():
    args = run.argparser().parse_args(["--config", "results=a", "--", "--config", "results=b"])
    assert str(configuration.read_config(args).results) == "b"


REFUSED = [
    ("--directory /tmp", "--directory after --: products go where --config results=FOLDER says"),
    ("-d/tmp", "-d after --: products go where"),
    ("--snakefile x", "--snakefile after --: for another workflow call snakemake itself"),
    ("-nsx", "-s after --: for another workflow"),
    ("--dire /tmp", "--dire after --: write it in full"),
    ("--configf x", "--configf after --: write it in full"),
    ("--prof x", "--prof after --: write it in full"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_would_be_another_run_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        run.argparser().parse_args(["--", *words.split()])


def test_a_refusal_is_one_line(work):
    status, output = work.call("run", "--", "--directory", "elsewhere")
    assert status == 2
    assert output == (
        "contimg run: --directory after --: products go where --config results=FOLDER says\n"
    )


def test_an_option_that_is_cut_short_or_not_ours_is_refused(work):
    """The shell part of the launcher looks for ``--profile``, and would not see ``--prof``."""
    status, output = work.call("run", "--prof", "slurm")
    assert status == 2
    assert "no option --prof; one of Snakemake's goes after --" in output
    status, output = work.call("run", "--dry-run")
    assert status == 2
    assert "no option --dry-run; one of Snakemake's goes after --" in output
    status, output = work.call("tick", "--prof", "slurm")
    assert status == 2
    assert "--prof" in output
