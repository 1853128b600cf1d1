"""The command line explains itself and imports only what it is asked for."""

import subprocess
import sys

import pytest

from dsa110_contimg import cli
from dsa110_contimg.core import places


def test_misspelt_command_gets_a_hint(capsys):
    assert cli.main(["simulte"]) == 2
    assert "did you mean 'simulate'?" in capsys.readouterr().err


def test_overview_names_every_command(capsys):
    assert cli.main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_overview_imports_nothing_heavy():
    code = (
        "import sys; from dsa110_contimg import cli; cli.main([]);"
        "print([m for m in ('numpy', 'astropy', 'pydantic', 'casatools') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_every_command_has_a_module_and_every_module_a_command():
    folder = places.PACKAGE / "commands"
    modules = {path.stem for path in folder.glob("[a-z]*.py")}
    assert modules - {"configuration", "shared"} == set(cli.COMMANDS)
