"""Results trees that released versions made; see ``tools/keep_release.py``."""

import json
import os
import tarfile
from datetime import datetime
from pathlib import Path

from astropy.time import Time

from dsa110_contimg.telescope import dsa110
from support import REPO
from support.night import Operations
from support.rawfiles import RawGroup, write_group

ARCHIVES = sorted((REPO / "tests/data/released").glob("*.tar.xz"))
VERSIONS = [path.name.removesuffix(".tar.xz") for path in ARCHIVES]
#: The one night that each of them holds.
NIGHT = "2026-02-03"


def unfold(version: str, path: Path) -> Operations:
    """Return a working folder with the results of a release, dated as it left them."""
    operations = Operations.make(path)
    with tarfile.open(REPO / f"tests/data/released/{version}.tar.xz") as archive:
        archive.extractall(path, filter="data")
    return operations


def bring_raw(operations: Operations) -> list[Path]:
    """Write the raw files that the night was made from: names, sizes, times as recorded."""
    paths = []
    for record in sorted(operations.results.glob(f"nights/{NIGHT}/groups/*/group_*.hdf5.json")):
        content = json.loads(record.read_text())
        group = content["qa"]["group"]
        start = Time(group["start_mjd"], format="mjd")
        half = dsa110.INTEGRATION_S / 2 / 86400
        raw = RawGroup(start.jd + half, group["dec_app_deg"], n_times=2, n_chan=2)
        made = write_group(operations.incoming, raw)
        for source, entry in zip(sorted(made), content["inputs"], strict=True):
            path = operations.path / entry["path"]
            source.rename(path)
            os.truncate(path, entry["size_bytes"])
            moment = datetime.fromisoformat(entry["mtime_utc"]).timestamp()
            os.utime(path, (moment, moment))
            paths.append(path)
    return paths
