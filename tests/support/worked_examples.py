"""The worked examples of CONTRIBUTING.md: edits and commands, read from its blocks and carried out.

A ``diff`` block whose title is a path is an edit: lines with ``+`` are added, those with ``-`` go,
the others show the place, which must be there once. ``@@`` parts places in one file; a file that is
added whole is a new one. A ``console`` block has commands, each after a ``$``.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Places in a file, as they are and as they shall be."""

    path: str
    hunks: tuple[tuple[str, str], ...]

    def apply(self, root):
        """Carry it out in a copy of the repository."""
        path = root / self.path
        if not path.exists():
            ((before, after),) = self.hunks
            assert not before, f"{self.path} is not there"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(after)
            return
        text = path.read_text()
        for before, after in self.hunks:
            places = [m.start() for m in re.finditer(rf"^(?={re.escape(before)})", text, re.M)]
            assert before and len(places) == 1, f"{self.path}: {len(places)} places like\n{before}"
            text = text[: places[0]] + after + text[places[0] + len(before) :]
        path.write_text(text)


@dataclass(frozen=True)
class Command:
    """A command line."""

    line: str


@dataclass(frozen=True)
class Example:
    """A worked example: its text, and what is to be done, in order."""

    text: str
    actions: tuple[Edit | Command, ...]

    @property
    def edited(self):
        """Files that its edits name."""
        return {action.path for action in self.actions if isinstance(action, Edit)}

    @property
    def named(self):
        """Whatever its sentences name as code."""
        return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", self.text, flags=FENCED)))


FENCED = re.M | re.S


def examples(text):
    """Return the worked examples of a page, by their titles."""
    chapter = text.split("\n## Worked examples\n")[1].split("\n## ")[0]
    parts = re.split(r"^### (.*)\n", chapter, flags=re.M)[1:]
    return {title: example(body) for title, body in zip(parts[::2], parts[1::2], strict=True)}


def example(text):
    """Return one worked example."""
    actions = []
    for kind, title, body in re.findall(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', text, FENCED):
        if kind == "diff":
            actions.append(Edit(title, tuple(map(_hunk, re.split(r"^@@\n", body, flags=re.M)))))
        elif kind == "console":
            actions += [Command(line) for line in re.findall(r"^\$ (.*)$", body, re.M)]
    return Example(text, tuple(actions))


def _hunk(text):
    """Return the lines before and after a change; an empty line may lack its blank."""
    lines = [line or " " for line in text.splitlines()]
    assert all(line[0] in " +-" for line in lines), text
    before, after = (
        "".join(f"{line[1:]}\n" for line in lines if line[0] in signs) for signs in (" -", " +")
    )
    return before, after
