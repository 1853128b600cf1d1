"""The whole workflow on simulated raw files."""

import subprocess
import sys

from dsa110_contimg.core.layout import Layout


def run_chain(truth, folder):
    """Run the workflow on a simulated folder; return the layout of its results."""
    command = [sys.executable, "-m", "dsa110_contimg", "run"]
    command += ["--configfile", str(truth.folder / "config.yaml"), "--config", "results=results"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Layout(folder / "results")
