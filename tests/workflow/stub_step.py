"""Stands in for ``python -m dsa110_contimg``: writes each step's products, empty, in no time.

Put on the PATH under the name ``python``. A calibrator's group that is named in the file
``bad_calibrators`` of the working folder gets a solution that failed its gate.
"""

import json
import sys
from pathlib import Path


def sidecar(product, verdict="pass", **qa):
    content = {"verdict": verdict, "reasons": [], "qa": qa}
    Path(f"{product}.json").write_text(json.dumps(content))


def touch(*products):
    for product in products:
        Path(product).write_text("")
        sidecar(product)


def group(out, *files):
    inventory = json.loads(Path("inventory.json").read_text())
    name = Path(out).stem.removeprefix("group_")
    touch(out)
    sidecar(out, group=next(g for g in inventory["groups"] if g["id"] == name))


def convert(source, out, *options):
    assert Path(source).exists()
    Path(out).mkdir()
    sidecar(out)


def calibrate(ms, prefix, *options):
    assert Path(ms).is_dir()
    bad = Path("bad_calibrators")
    failed = bad.exists() and Path(prefix).name in bad.read_text()
    for kind in ("kcal", "bcal", "gcal"):
        Path(f"{prefix}.{kind}").mkdir()
        sidecar(f"{prefix}.{kind}", "fail" if failed else "pass")


def apply(ms, out, *options):
    ladder = [options[i + 1] for i, option in enumerate(options) if option == "--candidate"]
    verdicts = {c: json.loads(Path(f"{c}.bcal.json").read_text())["verdict"] for c in ladder}
    usable = [c for c in ladder if verdicts[c] != "fail"]
    if not usable:
        sys.exit(f"contimg apply: {out}: no usable solution")
    Path(out).mkdir()
    sidecar(out)
    names = [Path(c).name for c in ladder]
    record = {"candidates": names, "chosen": Path(usable[0]).name, "borrowed": False}
    Path(out.removesuffix(".cal.ms") + ".calibration.json").write_text(json.dumps(record))


def image(ms, prefix, *options):
    assert Path(ms).is_dir()
    kinds = ("image", "pb", "pbcor", "residual", "model", "psf", "rms")
    touch(*(f"{prefix}.{kind}.fits" for kind in kinds))


def photometry(source, out, *options):
    assert Path(source).exists()
    touch(out)


def mosaic(out, *tiles):
    assert all(Path(tile).exists() for tile in tiles if tile.endswith(".fits"))
    stem = out.removesuffix(".fits")
    touch(out, f"{stem}.weight.fits", f"{stem}.rms.fits")


def lightcurves(folder, *tables):
    touch(*(Path(folder) / f"{name}" for name in ("lightcurves.parquet", "variability.csv")))
    touch(Path(folder) / "candidates.csv")


def qa(folder, out, *options):
    touch(out)


report = qa


def index(results, out):
    with Path(out).open("a") as file:  # a line each time it is built upon
        file.write("made\n")


if __name__ == "__main__":
    step, *arguments = sys.argv[sys.argv.index("dsa110_contimg") + 1 :]
    globals()[step](*arguments)
