"""What a person sees while the workflow runs."""

import re
import subprocess
import sys

SNAKEFILE = """
rule all:
    input: expand("{group}.out", group=["20260210T010000", "20260210T010509", "20260210T01", "x"])

rule image:
    output: "{group}.out"
    log: "{group}.log"
    shell: "test {wildcards.group} != x || (echo WSClean diverged > {log}; exit 1); touch {output}"
"""


def test_each_job_and_each_failure_is_told(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "-c1", "--keep-going", "--logger", "contimg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert any("5 jobs to do" in line for line in lines), done.stderr
    finished = [
        line for line in lines if re.match(r"\[ *\d+/5.*\] image +2026\d+T\d+ +[\d.]+ s", line)
    ]
    assert len(finished) == 3
    assert "(3 of 4)" in finished[-1]
    assert any(re.search(r"\d+:\d\d left", line) for line in finished)
    failed = next(i for i, line in enumerate(lines) if line.startswith("FAILED image x"))
    assert "WSClean diverged" in lines[failed + 1]
    assert lines[failed + 2].strip() == "log: x.log"
