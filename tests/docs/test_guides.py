"""What the documentation says is true: commands, options, states, files, tests, units."""

import configparser
import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from dsa110_contimg import cli
from dsa110_contimg.core import errors, places
from dsa110_contimg.core.options import Config, Options
from dsa110_contimg.operations import alerts as alerting
from dsa110_contimg.operations import failures
from dsa110_contimg.operations import metrics as prometheus
from dsa110_contimg.operations import snapshot as snapshots
from support import REPO
from support.worked_examples import examples

GUIDES = (
    *("README.md", "CONTRIBUTING.md", "config/README.md", "profiles/README.md"),
    *sorted(path.relative_to(REPO).as_posix() for path in REPO.glob("docs/**/*.md")),
)
TEXT = {name: (REPO / name).read_text() for name in GUIDES}
OPERATIONS = TEXT["docs/handbook/operations.md"]
#: Files that the worked examples make or change; the test that carries them out looks at those.
EDITED = {path for each in examples(TEXT["CONTRIBUTING.md"]).values() for path in each.edited}
#: Commands of the shell script itself.
IN_SHELL = {"exec", "setup", "test"}


def commands():
    """Yield every command line of `contimg` in the guides and in the files to deploy."""
    for name, text in TEXT.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        joined = re.sub(r"(`[^`\n]*)\n([^`\n]*`)", r"\1 \2", prose)  # a line break divides it
        found = re.findall(r"(?<!`)`(?:\./)?contimg ([^`]+)`", joined)
        found += re.findall(r"^ {4}(?:.*&& |\S*/)?\./contimg ([^#\n]+)", text, re.M)
        yield from ((name, line.strip()) for line in found)
    for path in (REPO / "deploy").iterdir():
        for line in re.findall(r"/contimg\"? (tick[^>\n]*)", path.read_text()):
            yield path.name, line.strip()


@pytest.mark.parametrize(("where", "line"), sorted(set(commands())))
def test_each_command_is_understood(where, line, capsys):
    line = re.sub(r"\s*(…|PRODUCT|>>.*|&&.*)", " x", line).replace('"$CONFIG"', "x")
    line = line.replace("--configfile x", "--configfile x.yaml").removesuffix(" x")
    name, *arguments = shlex.split(line)
    if name in IN_SHELL:
        return
    assert name in cli.COMMANDS
    parser = importlib.import_module(f"dsa110_contimg.commands.{name}").argparser()
    try:
        parser.parse_args(arguments)
    except SystemExit:  # a sentence may name a command without all that it needs
        assert "are required" in capsys.readouterr().err, line


def test_the_search_for_commands_finds_them():
    found = {line.split()[0] for _, line in commands()}
    assert {"run", "tick", "status", "check", "retry", "clean", "purge", "demo", "exec"} <= found


def key_exists(name):
    model = Config
    for part in name.split("."):
        if not (isinstance(model, type) and issubclass(model, Options)):
            return False
        if part not in model.model_fields:
            return False
        model = model.model_fields[part].annotation
    return True


#: Endings of files whose names begin like sections (`mosaic.fits`).
ENDINGS = {"csv", "fits", "json", "parquet", "rms", "view", "weight"}


@pytest.mark.parametrize("guide", GUIDES)
def test_each_option_exists(guide):
    sections = set(Config.model_fields)
    if guide != "docs/handbook/operations.md":
        sections -= {"qa"}  # figures of merit, elsewhere
    named = re.findall(r"`([a-z_]+)\.([a-z_]+)\b[^`]*`", TEXT[guide])
    for section, key in named:
        module = places.PACKAGE / section / f"{key}.py"
        if section in sections and key not in ENDINGS and not module.exists():
            assert key_exists(f"{section}.{key}"), f"{section}.{key}"
    if guide == "docs/handbook/operations.md":
        assert len({pair for pair in named if pair[0] in sections}) > 20


@pytest.mark.parametrize("guide", GUIDES)
def test_each_file_exists(guide):
    folders = "benchmarks|config|deploy|docs|profiles|src|tests|tools|workflow"
    for path in re.findall(rf"`(?:python )?((?:{folders})/[\w./-]+)[ `]", TEXT[guide]):
        if "results" not in path and path not in EDITED:
            assert (REPO / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", TEXT[guide]):
        assert ((REPO / guide).parent / path).exists(), path


@pytest.mark.parametrize("guide", GUIDES)
def test_each_test_exists(guide):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", TEXT[guide]):
        assert (REPO / path).exists() or path in EDITED, path
        assert not name or f"def {name}(" in (REPO / path).read_text(), f"{path}::{name}"


def rows(after):
    """Return the cells of the first column of the table that follows a heading of its own."""
    table = OPERATIONS[OPERATIONS.index(after) :].split("\n\n")[0]
    return [re.split(r" *\| *", line)[1] for line in table.splitlines()[2:]]


def test_each_exit_status_is_listed():
    classes = [getattr(errors, name) for name in errors.__all__]
    known = {c.status for c in classes if isinstance(c, type) and hasattr(c, "status")}
    listed = {int(n) for cell in rows("| exit status |") for n in cell.split(", ")}
    assert listed == known | {0, 130, 143}


def test_each_state_is_listed():
    listed = [s for cell in rows("| state |") for s in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == sorted(snapshots.STATES)


def test_each_alert_is_listed():
    source = Path(alerting.__file__).read_text()
    told = set(re.findall(r"found\[f?\"([a-z ]+?)(?: \{.*)?\"\] = Alert", source))
    assert {cell.strip("`") for cell in rows("| alert |")} == told


def test_retries_are_as_told():
    words = {3: "three times", 2: "twice", 0: "not at all"}
    text = " ".join(OPERATIONS.split())
    for cause, times in failures.RETRIES.items():
        assert re.search(rf"`{cause}`[^;.]*? {words[times]}", text), cause


# --- profiles and files to deploy ---------------------------------------------------------------

RULES = set(
    re.findall(
        r"^(?:use rule \w+ as|rule) (\w+)",
        "".join(p.read_text() for p in (REPO / "workflow/rules").glob("*.smk")),
        re.M,
    )
)


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_each_key_of_a_profile_is_explained(name):
    lines = (REPO / f"profiles/{name}/profile.yaml").read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if re.match(r"[a-z]", line):
            assert before.startswith("#"), f"{line} has no comment above it"


def test_the_cluster_profile_knows_the_rules():
    """A new rule must be given a place: a chain it travels with, or a submission of its own."""
    profile = yaml.safe_load((REPO / "profiles/slurm/profile.yaml").read_text())
    grouped = {item.split("=")[0] for item in profile["groups"]}
    alone = {"hour_mosaic", "field_apply", "field_image", "night_report"}
    assert RULES - grouped == alone, "put a new rule in a group of profiles/slurm, or here"
    assert grouped <= RULES
    assert set(profile["set-resources"]) | set(profile["set-threads"]) <= RULES
    for limits in (profile["default-resources"], *profile["set-resources"].values()):
        for key in {"mem_mb", "runtime"} & set(limits):
            assert re.fullmatch(r"\d+ \* attempt", limits[key]), (key, limits[key])


def test_the_picture_of_the_rules_shows_them_all():
    drawn = set(re.findall(r">(\w+)</text>", (REPO / "docs/images/rules.svg").read_text()))
    assert drawn == RULES, "run: ./contimg exec python tools/draw_pictures.py"


def unit(name):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(REPO / "deploy" / name)
    return parser


def test_units_agree_with_what_a_tick_does():
    service, timer = unit("contimg.service")["Service"], unit("contimg.timer")["Timer"]
    assert service["Type"] == "oneshot"
    assert set(service["SuccessExitStatus"].split()) == {"1", str(errors.BusyError.status)}
    assert timer["OnUnitInactiveSec"] == "2min"
    assert service["ExecStart"].split()[1] == "tick"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_units(tmp_path):
    for name in ("contimg.service", "contimg.timer"):
        text = (REPO / "deploy" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/dsa110-contimg/contimg", "/bin/true"))
    command = ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "contimg" not in done.stderr, done.stderr


def test_crontab_lines_are_complete():
    text = (REPO / "deploy/contimg.cron").read_text()
    lines = [line.removeprefix("# ") for line in text.splitlines() if re.match(r"(# )?\*/", line)]
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"\*/2 \* \* \* \* +cd /data/contimg && ", line)
        assert line.endswith('>> "$LOG" 2>&1')
        assert "%" not in line  # cron takes it for a line break


def test_rules_for_prometheus_name_metrics_that_exist():
    content = yaml.safe_load((REPO / "deploy/prometheus-rules.yml").read_text())
    expressions = " ".join(rule["expr"] for g in content["groups"] for rule in g["rules"])
    source = Path(prometheus.__file__).read_text()
    names = set(re.findall(r"yield \(?\s*\"(\w+)", source)) | {"disk_free_bytes"}
    used = set(re.findall(r"contimg_(\w+)", expressions))
    assert used and used <= names
    scrape = yaml.safe_load((REPO / "deploy/prometheus.yml").read_text())
    assert scrape["rule_files"] == ["prometheus-rules.yml"]


def test_the_container_takes_its_pins_from_the_lock_files():
    """It installs the system's packages that the launcher wants, and leaves the rest to it."""
    text = (REPO / "deploy/Containerfile").read_text()
    assert re.search(r"^FROM \S*debian:12", text, re.M)  # its Python is 3.11
    assert 'requires-python = ">=3.11"' in (REPO / "pyproject.toml").read_text()
    packages = set(re.findall(r"^ {8}([a-z0-9-]+) \\$", text, re.M))
    launcher = (REPO / "contimg").read_text()
    tools = set(re.search(r"for tool in ([\w ]+); do", launcher)[1].split())
    assert packages == tools | {"ca-certificates", "python3", "python3-venv"}
    assert "contimg setup" in text  # sets up the environment, with the lock's hashes
    assert "pip install" not in text
    copied = {name for line in re.findall(r"^COPY (.*) ", text, re.M) for name in line.split()}
    assert {"contimg", "Snakefile", "config", "profiles", "src", "workflow"} <= copied
    assert {path.name for path in REPO.glob("requirements*.lock")} <= copied
    assert all((REPO / name).exists() for name in copied)
