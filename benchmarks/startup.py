"""Start-up of steps and of an idle command, of this checkout against another, in turn.

    ./contimg exec python benchmarks/startup.py OTHER_CHECKOUT

A step is given an input that does not exist: what it takes is its imports. The ratio is that
of medians, this checkout over the other.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import ROOT

STEPS = {
    "photometry": ("no.fits", "out.csv", "--catalog", "no.csv"),
    "image": ("no.ms", "out"),
    "apply": ("no.ms", "out.ms", "--candidate", "none"),
    "tile_report": ("none", "out.html"),
}


def seconds(checkout: Path, program: list[str]) -> float:
    """Return the wall time of a program with the package of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    began = time.perf_counter()
    subprocess.run([sys.executable, *program], env=environment, capture_output=True, check=False)
    return time.perf_counter() - began


def program_of(checkout: Path, name: str) -> list[str]:
    """Return what runs a step, or `status`; before 0.3 steps were commands."""
    script = checkout / "workflow" / "scripts" / f"{name}.py"
    program = [str(script)] if script.exists() else ["-m", "dsa110_contimg", name.replace("_", "-")]
    return [*program, *STEPS.get(name, ())]


def main() -> None:
    """Print a line for each step, and one for `status`, which plans as an idle tick does."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path, help="checkout to compare with")
    parser.add_argument("--runs", type=int, default=7, help="of each, in turn (default: 7)")
    args = parser.parse_args()
    for name in (*STEPS, "status"):
        found: dict[Path, list[float]] = {ROOT: [], args.other: []}
        for _ in range(args.runs + 1):
            for checkout, times in found.items():
                times.append(seconds(checkout, program_of(checkout, name)))
        here, there = (statistics.median(times[1:]) for times in found.values())
        print(f"{name:<12} {here:.3f} s, other {there:.3f} s, ratio {here / there:.3f}")


if __name__ == "__main__":
    main()
