"""`./contimg run 2030-01-01`, or the id of a group that does not exist: Snakemake's traceback.

Nor were there dotted keys, and `lineage` wanted the index's path first.
Wanted: one plain line that says what there is; dotted keys; sensible defaults for every argument.
"""

import contextlib
import io
import os
import re

import pytest

from dsa110_contimg import cli
from dsa110_contimg.core.config import load_config, nested
from dsa110_contimg.core.errors import ConfigError
from support.dag_folder import DagFolder
from support.night import Operations, raw_groups, science

GROUPS = "20260210T000926", "20260210T001436"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two groups of a night, and one of the next whose files are still arriving."""
    path = tmp_path_factory.mktemp("wrong")
    work = Operations.make(path)
    work.receive(raw_groups(path / "raw", 2))
    (late,) = raw_groups(path / "late", 1, day=1)
    work.receive([late[:3]])
    return work


def told(work, *arguments, wait_s=0.0):
    """Return the exit status and the one line that a command says."""
    status, output = work.call(*arguments, wait_s=wait_s)
    lines = output.splitlines()
    assert len(lines) == 1, output
    return status, lines[0]


ASKED = [
    ("2030-01-01", "there are no data of this night; the nearest are 2026-02-10, 2026-02-11"),
    ("2026-02-30", "2026-02-30: there is no such day"),
    ("20260210T000000", "there is no such group; the nearest are 20260210T000926, 20260210T001436"),
    ("20260210T000960", "'20260210T000960' is no group id"),
    ("2026-02-11", "nothing of it can be made: 1 of 1 groups: still arriving"),
    ("20260211T000530", "it cannot be made: still arriving"),
    ("nonsense", "neither a group (20260213T043210), a night (2026-02-13), nor a product in"),
    ("2026-2-10", "neither a group"),
    (
        "results/nights/2026-02-10/mosaik.fits",
        "did you mean results/nights/2026-02-10/mosaic.fits?",
    ),
    ("results/nights/2030-01-01/mosaic.fits", "2030-01-01: there are no data of this night"),
    ("results/nights/2026-02-11/mosaic.fits", "2026-02-11: nothing of it can be made: 1 of 1"),
    ("results/x.txt", "no such product; no step makes it"),
]


@pytest.mark.parametrize(("target", "message"), ASKED)
def test_what_cannot_be_made_is_told_in_one_line(work, target, message):
    status, line = told(work, "run", target, wait_s=1e9)
    assert status in (2, 3)
    assert message in line


def test_a_group_that_was_set_aside_tells_why(tmp_path):
    work = Operations.make(tmp_path)
    work.receive(raw_groups(tmp_path / "raw", 2))
    message = 'contimg-failure: {"cause": "data", "message": "it is broken", "status": 3}'
    (tmp_path / "fail").write_text(f"convert {GROUPS[1]} {message}\n")
    work.call("run")
    status, line = told(work, "run", GROUPS[1])
    assert status == 2
    assert f"{GROUPS[1]}: it cannot be made: set aside: convert: it is broken; repeat it" in line


def test_a_closed_night_can_be_asked_for(tmp_path):
    work = Operations.make(tmp_path)
    work.receive(raw_groups(tmp_path / "raw", 1))
    assert work.call("tick")[0] == 0
    made = science(work.products())
    for target in ("2026-02-10", GROUPS[0], "results/nights/2026-02-10/mosaic.fits"):
        status, output = work.call("run", target)
        assert status == 0, output
    (work.results / "nights/2026-02-10/mosaic.fits").unlink()
    status, output = work.call("run", "2026-02-10")
    assert status == 0, output
    assert science(work.products()) == made


# --- keys with dots -------------------------------------------------------------------------------


def test_dotted_keys_are_their_sections():
    values = {
        "imaging.preset": "quick",
        "imaging": {"size_px": 256},
        "joint.fields.3C48.1": "1 2 3",
    }
    config = load_config(values)
    assert (config.imaging.preset, config.imaging.size_px) == ("quick", 256)
    assert config.joint.fields == {"3C48.1": "1 2 3"}
    assert nested({"imaging": {"preset": "deep"}}, nested(values))["imaging"]["size_px"] == 256
    assert values["imaging"] == {"size_px": 256}


WRONG = [
    ("imaging.presett=quick", "imaging.presett: no such key; did you mean 'preset'?"),
    ("imagings.preset=quick", "imagings: no such key; did you mean 'imaging'?"),
    ("incoming.x=1", "incoming.x: incoming is 'demo/incoming', no section"),
    ("imaging.preset=fast", "imaging.preset: input should be 'quick', 'standard' or 'deep'"),
    ("imaging=3", "imaging: input should be a valid dictionary"),
    ("results=", "results: input is not a valid path, got None"),
    ("results", "--config: 'results' is not KEY=VALUE"),
    ("imaging.size_px={", "--config: 'imaging.size_px={': not valid YAML"),
]


@pytest.mark.parametrize(("item", "message"), WRONG)
def test_a_wrong_key_is_told_in_one_line(folder, item, message):
    status, said = command("status", "--config", item)
    assert status == 2
    assert message in said


@pytest.mark.parametrize("place", ["my # data", "a: b", "[x]", "0017", "'quoted'"])
def test_a_path_is_as_it_is_written(folder, place):
    (folder / place.strip("'")).mkdir()
    status, said = command("status", "--config", f"incoming={place}", "results=none")
    assert status == 0, said


# --- commands and mistakes ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder in which the shipped configuration is valid, without data."""
    DagFolder.make(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


#: Files that are not what they are taken for.
FILES = {
    "text": b"x",
    "list.yaml": b"- a\n",
    "word.yaml": b"hello\n",
    "binary.yaml": b"\xff\xfe\x00",
    "broken.yaml": b"a: [\n",
    "empty.yaml": b"",
    "columns.csv": b"name,x\na,1\n",
    "empty.csv": b"",
}
MISTAKES = {
    "--configfile nowhere.yaml": (2, "there is no file nowhere.yaml"),
    "--configfile demo": (2, "demo cannot be read: Is a directory"),
    "--configfile list.yaml": (2, "list.yaml: not a configuration: it holds no keys"),
    "--configfile word.yaml": (2, "word.yaml: not a configuration: it holds no keys"),
    "--configfile binary.yaml": (2, "binary.yaml: not valid YAML"),
    "--configfile broken.yaml": (2, "broken.yaml: not valid YAML"),
    "--config results=text": (2, "results: text is a file; set 'results' to a folder"),
    "--config nonsense=1": (2, "nonsense: no such key"),
    "--campaign none": (2, "there is no campaign none; there are: none"),
}
#: Of commands that look at raw files.
OF_DATA = {
    "--config incoming=text": (2, "incoming: there is no folder text"),
    "--config incoming=nowhere": (2, "incoming: there is no folder nowhere"),
    "--config catalog=nowhere.csv": (2, "catalog: there is no file nowhere.csv"),
    "--config catalog=demo": (2, "catalog: there is no file demo"),
    "--config catalog=columns.csv": (3, "columns.csv: column ra_deg, dec_deg, flux_jy is missing"),
    "--config catalog=empty.csv": (3, "empty.csv: column ra_deg, dec_deg, flux_jy is missing"),
    "--config calibrators=columns.csv": (3, "columns.csv: column ra_deg, dec_deg, flux_jy is"),
}
COMMANDS = (
    *("run", "tick", "retry all", "status", "clean", "purge", "purge --yes", "inventory"),
    *("report", "export out", "lineage x", "recall x"),
)


def command(*words):
    """Run a command in this process; return its exit status and what it says of a failure."""
    here, said = os.getcwd(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = cli.main(list(words))
        finally:
            os.chdir(here)
    return status, said.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_mistake_is_one_line_and_a_status(folder, name):
    mistakes = MISTAKES | (OF_DATA if name in ("run", "tick", "status") else {})
    if name == "run":  # it begins one
        mistakes = {m: t for m, t in mistakes.items() if m != "--campaign none"}
    for mistake, (wanted, message) in mistakes.items():
        status, said = command(*name.split(), *mistake.split())
        *before, line = said.splitlines()
        assert status == wanted, (mistake, said)
        assert "Traceback" not in said
        assert not before or name == "tick", said  # which logs that there is nothing to publish
        assert line.startswith(f"contimg {name.split()[0]}: "), said
        assert message in line
    assert not (folder / "results/nights").exists()


def test_an_empty_configuration_file_changes_nothing(folder):
    assert command("status", "--configfile", "empty.yaml") == (0, "")


def test_results_on_a_read_only_place_are_one_line(folder, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(30, "Read-only file system", "results")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    for name in ("run", "purge --yes", "retry all"):
        status, said = command(*name.split())
        assert status == 6
        assert "read-only file system" in said.lower()
        assert len(said.splitlines()) == 1, said


# --- defaults -------------------------------------------------------------------------------------


def test_questions_go_to_the_configured_results(work):
    status, output = work.call("run", "2026-02-10")
    assert status == 0, output
    for name in ("lineage", "recall"):
        status, line = told(work, name, "x.fits")
        assert "index.sqlite" in line  # the stub's is none: it was looked for in the right place
        status, line = told(work, name, "x.fits", "--index", "other.sqlite")
        assert "other.sqlite: no index" in line
    status, output = work.call("inventory")
    assert status == 0
    assert GROUPS[0] in output


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_tells_what_every_argument_is(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    for option in re.findall(r"^  (--[a-z-]+)", text, re.M):
        after = text[text.index(f"\n  {option}") :].split("\n")[1:3]
        assert len(" ".join(after).replace(option, "").split()) > 2, option


def test_a_broken_section_is_an_error_of_the_configuration():
    with pytest.raises(ConfigError, match=r"a\.b: a is 3, no section"):
        nested({"a": 3, "a.b": 4})
