"""Copy the pins of requirements.lock into workflow/envs/*.yaml, after a change of the lock file."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def locked(python: tuple[int, int]) -> dict[str, str]:
    """Return the locked version of each package for one version of Python."""
    pins = {}
    for line in (REPO / "requirements.lock").read_text().splitlines():
        match = re.match(r"([\w.-]+)==(\S+)(?: ; (.*?))? *\\$", line)
        if match and _holds(match[3] or "", python):
            pins[match[1]] = match[2]
    return pins


def _holds(marker: str, python: tuple[int, int]) -> bool:
    """Evaluate the comparisons of ``python_full_version`` that the lock file uses."""
    for sign, major, minor in re.findall(r"python_full_version (<|>=) '(\d+)\.(\d+)'", marker):
        bound = (int(major), int(minor))
        if (python < bound) != (sign == "<"):
            return False
    return True


def pinned(text: str) -> str:
    """Return an environment file with the lock file's pins."""
    ((major, minor),) = re.findall(r"- python=(\d+)\.(\d+)", text)
    pins = locked((int(major), int(minor)))
    return re.sub(r"- ([\w.-]+)==.*", lambda match: f"- {match[1]}=={pins[match[1]]}", text)


if __name__ == "__main__":
    for path in (REPO / "workflow/envs").glob("*.yaml"):
        path.write_text(pinned(path.read_text()))
