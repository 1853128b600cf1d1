"""Open a page in headless Chromium: what it says on the console, and how it looks to scripts."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)


def chromium() -> str | None:
    """Return the browser, or None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def dom(page, script="", budget_ms=2000):
    """Return (the page's DOM after its scripts and `script` ran, lines of its console).

    Scripts are given `budget_ms` of the page's own time, which passes as fast as it can.
    """
    text = page.read_text(encoding="utf-8")
    if script:
        text = text.replace("</body>", f"<script>{{{script}}}</script></body>")
    budget = f"--virtual-time-budget={budget_ms}"
    with tempfile.TemporaryDirectory() as profile:
        copy = page.with_name("opened-" + page.name)
        copy.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [chromium(), *FLAGS, budget, f"--user-data-dir={profile}", "--dump-dom", copy.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, console


def screenshot(page, name, folder, height=3000):
    """Keep how a page looks and return the picture's path.

    It goes to the folder that the environment variable CONTIMG_ARTEFACTS names, else to `folder`.
    """
    out = Path(os.environ.get("CONTIMG_ARTEFACTS", folder)).absolute() / f"{name}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium(),
                *FLAGS,
                "--virtual-time-budget=2000",
                f"--user-data-dir={profile}",
                f"--window-size=1200,{height}",
                f"--screenshot={out}",
                f"file://{page}",
            ],
            capture_output=True,
            timeout=120,
            check=True,
        )
    return out
