"""Run a step as its script does, within the test's process."""

import importlib.util
from functools import cache

from dsa110_contimg.core import places, steps


@cache
def load(step):
    """Return a step's script as a module."""
    path = places.script(step)
    spec = importlib.util.spec_from_file_location(f"step_{step}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_step(step, *arguments):
    """Run a step; return its exit status."""
    script = load(step)
    return steps.run(script.argparser(), script.main, [str(a) for a in arguments])
