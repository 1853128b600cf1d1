"""The worked examples of CONTRIBUTING.md, carried out on a copy of the repository."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import REPO
from support.worked_examples import Command, Edit, example, examples

BIN = Path(sys.executable).parent
EXAMPLES = examples((REPO / "CONTRIBUTING.md").read_text())


def git(folder, *arguments):
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(
        ["git", *author, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A repository with the files of this one, as they are now."""
    folder = tmp_path_factory.mktemp("original")
    try:
        names = git(REPO, "ls-files", "--cached", "--others", "--exclude-standard")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    for name in names:
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "as it was")
    return folder


@pytest.fixture
def copy(original, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(original, tmp_path / "copy")


def run(command, folder):
    """Run a command as the launcher would, on the copy's package."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CONTIMG_", "PYTEST_"))}
    environment["PYTHONPATH"] = str(folder / "src")
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def carry_out(action, folder):
    """Do what an example says."""
    if isinstance(action, Edit):
        action.apply(folder)
        return
    launcher, how, *words = shlex.split(action.line)
    assert launcher == "./contimg"
    if how == "test":
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    else:
        assert how == "exec"
    run(words, folder)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_does_what_it_says_and_touches_what_it_names(title, copy):
    this = EXAMPLES[title]
    if any("draw_pictures" in str(action) for action in this.actions) and not shutil.which("dot"):
        pytest.skip("no Graphviz")
    for action in this.actions:
        carry_out(action, copy)
    status = git(copy, "status", "--porcelain", "--untracked-files=all")
    changed = {line[3:] for line in status}
    assert this.edited <= changed
    assert this.edited <= this.named, "each file is named in a sentence"
    assert changed <= this.named, "no other file is touched"
    python = [name for name in changed if name.endswith(".py")]
    run(["ruff", "check", *python], copy)
    run(["ruff", "format", "--check", *python], copy)
    if rules := [name for name in changed if name.endswith(".smk")]:
        run(["snakefmt", "--check", *rules], copy)
    run(["codespell", *changed], copy)


def test_every_example_is_there():
    wanted = ("a figure", "an imaging preset", "a calibrator", "a step")
    assert list(EXAMPLES) == [f"Add {what}" for what in wanted]
    for this in EXAMPLES.values():
        assert any(isinstance(a, Command) and "contimg test" in a.line for a in this.actions)


# --- how they are read ----------------------------------------------------------------------------

TEXT = """
Words about `a.txt` and `new/b.txt`.

```diff title="a.txt"
 one
-two
+2

@@
 four
+five
```

```diff title="new/b.txt"
+all of it
```

```console
$ ./contimg test x
```
"""


def test_an_edit_changes_its_places_only(tmp_path):
    (tmp_path / "a.txt").write_text("zero\none\ntwo\n\nthree\nfour\n")
    this = example(TEXT)
    for action in this.actions[:2]:
        action.apply(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "zero\none\n2\n\nthree\nfour\nfive\n"
    assert (tmp_path / "new/b.txt").read_text() == "all of it\n"
    assert this.named >= this.edited == {"a.txt", "new/b.txt"}
    assert this.actions[2] == Command("./contimg test x")


@pytest.mark.parametrize("text", ["one\n", "one\ntwo\n\none\ntwo\n\nfour\n", "none\ntwo\n\nfour\n"])
def test_a_place_that_is_not_there_once_is_an_error(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(AssertionError, match=r"a\.txt"):
        example(TEXT).actions[0].apply(tmp_path)
