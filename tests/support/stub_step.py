"""Stands in for the step scripts: writes each step's products, small, in no time.

Put on the PATH under the name ``python``. What it writes is a digest of the step's arguments and of
what its inputs hold, so that equal products mean equal histories. It reads from its environment

* ``STUB_SECONDS``: how long a step takes;
* ``STUB_LEDGER``: file to which each step adds a line when it begins and when it ends;
* ``STUB_FLUX``: flux of a source in tables of photometry, which are real tables then;
* ``STUB_FAIL``: file with lines ``step text message``: a step whose arguments hold the text fails.

A calibrator's group that is named in the file ``bad_calibrators`` of the working folder gets a
solution that failed its gate.
"""

import datetime
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path


def beside(path):
    """Name a temporary as the steps do."""
    host = "".join(c if c.isalnum() else "_" for c in os.uname().nodename)
    return path.with_name(f".tmp-{os.getpid()}-{host}-{path.name}")


def write(path, text):
    """Write a file whole or not at all."""
    path = Path(path)
    temporary = beside(path)
    temporary.write_text(text)
    temporary.replace(path)


def sidecar(product, verdict="pass", outputs=(), **facts):
    """Write the sidecar of a product, which vouches for it and for what was made with it."""
    made = [summed(Path(path)) for path in (product, *outputs)]
    content = {"verdict": verdict, "reasons": [], "qa": {}, "outputs": made} | facts
    write(f"{product}.json", json.dumps(content))


def summed(path):
    """Return size and checksum of a file, or of a folder with one file."""
    (file,) = path.iterdir() if path.is_dir() else (path,)
    size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
    if path.is_dir():
        digest = hashlib.sha256(f"{file.name}\0{size}\0{digest}\n".encode()).hexdigest()
    return {"path": path.name, "size_bytes": size, "sha256": digest}


def described(path):
    stat = Path(path).stat()
    moment = datetime.datetime.fromtimestamp(stat.st_mtime, datetime.UTC)
    return {"path": path, "size_bytes": stat.st_size, "mtime_utc": moment.isoformat()}


def content(*arguments):
    """Return a digest of arguments; of those that are files, of what they hold."""
    digest = hashlib.sha256()
    for argument in arguments:
        path = Path(argument)
        path = path / "content" if path.is_dir() else path
        digest.update(path.read_bytes() if path.is_file() else str(argument).encode())
    return digest.hexdigest() + "\n"


def touch(*products, made_of=()):
    for product in products:
        write(product, content(Path(product).name, *made_of))
    sidecar(products[0], outputs=products[1:])


def folder(path, made_of=(), verdict="pass"):
    temporary = beside(Path(path))
    temporary.mkdir()
    (temporary / "content").write_text(content(Path(path).name, *made_of))
    if Path(path).exists():
        Path(path).replace(temporary.with_name(f"{temporary.name}.old"))
    temporary.replace(path)
    shutil.rmtree(temporary.with_name(f"{temporary.name}.old"), ignore_errors=True)
    sidecar(path, verdict)


def group(out, *files):
    name = Path(out).stem.removeprefix("group_")
    inventory = json.loads(Path(os.environ["CONTIMG_INVENTORY"]).read_text())
    touch(out, made_of=files)
    entry = next(g for g in inventory["groups"] if g["id"] == name)
    if "stamp" in entry:
        entry |= {"stamp": ""}  # of when the raw files arrived: no history of the product
    figures = {"subbands": [], "absent_subbands": [], "n_integrations": 24, "n_baselines": 1}
    figures |= {"dec_app_deg": 0.0, "group": entry}
    sidecar(out, step="group", qa=figures, inputs=[described(file) for file in files])


def convert(source, out, *options):
    assert Path(source).exists()
    folder(out, [source, *options])


def calibrate(ms, prefix, *options):
    assert Path(ms).is_dir()
    bad = Path("bad_calibrators")
    failed = bad.exists() and Path(prefix).name in bad.read_text()
    for kind in ("kcal", "bcal", "gcal"):
        folder(f"{prefix}.{kind}", [ms, *options], "fail" if failed else "pass")


def apply(ms, out, *options):
    ladder = [options[i + 1] for i, option in enumerate(options) if option == "--candidate"]
    verdicts = {c: json.loads(Path(f"{c}.bcal.json").read_text())["verdict"] for c in ladder}
    usable = [c for c in ladder if verdicts[c] != "fail"]
    if not usable:
        sys.exit(f"contimg apply: {out}: no usable solution")
    folder(out, [ms, f"{usable[0]}.bcal", *options])
    names = [Path(c).name for c in ladder]
    record = {"candidates": names, "chosen": Path(usable[0]).name, "borrowed": False}
    write(out.removesuffix(".cal.ms") + ".calibration.json", json.dumps(record))


def image(ms, prefix, *options):
    assert Path(ms).is_dir()
    kinds = ("image", "pb", "pbcor", "residual", "model", "psf", "rms")
    touch(*(f"{prefix}.{kind}.fits" for kind in kinds), made_of=[ms, *options])


def photometry(source, out, *options):
    assert Path(source).exists()
    touch(out, made_of=[source, *options])
    if flux := os.environ.get("STUB_FLUX"):
        write(out, f"source_id,flux_jy,snr\nA,{flux},100\nB,2.0,50\n")


def mosaic(out, *tiles):
    assert all(Path(tile).exists() for tile in tiles if tile.endswith(".fits"))
    stem = out.removesuffix(".fits")
    touch(out, f"{stem}.weight.fits", f"{stem}.rms.fits", made_of=tiles)
    sidecar(out, inputs=[{"path": tile} for tile in tiles if tile.endswith(".fits")])


def joint(out, *options):
    assert all(Path(o).exists() for o in options if o.endswith((".ms", ".fits")))
    stem = out.removesuffix(".fits")
    touch(out, f"{stem}.weight.fits", f"{stem}.rms.fits", made_of=options)


def blind(source, out, *options):
    assert Path(source).exists()
    touch(out, made_of=[source, *options])


def lightcurves(folder, *tables):
    names = ("lightcurves.parquet", "variability.csv", "candidates.csv")
    touch(*(Path(folder) / name for name in names), made_of=tables)


def candidate_plots(curves, out):
    folder(out, [Path(curves) / "candidates.csv"])


def night_qa(folder, out, *options):
    made = content(Path(out).name, Path(folder) / "photometry.csv")
    verdict = {"verdict": "clean", "tiles": [], "reasons": [], "counts": {}, "made": made}
    write(out, json.dumps(verdict | {"calibrations": [], "flux_scale": {}, "timings": {}}))
    sidecar(out)


def night_report(folder, out, *options):
    touch(out, made_of=[Path(folder) / "photometry.csv"])


def tile_report(folder, out):
    stem = out.removesuffix(".html")
    touch(out, f"{stem}.view.jpg", f"{stem}.thumbnail.jpg")


def calibration_report(folder, out):
    touch(out)


def mosaic_view(source, out):
    assert Path(source).exists()
    touch(out)


def index(results, out):
    with Path(out).open("a") as file:  # a line each time it is built upon
        file.write("made\n")
    sidecar(out)


def note(*words):
    if ledger := os.environ.get("STUB_LEDGER"):
        with open(ledger, "a") as file:
            file.write(" ".join(words) + "\n")


def fail_if_told(step, arguments):
    told = Path(os.environ.get("STUB_FAIL", "/nowhere"))
    for line in told.read_text().splitlines() if told.is_file() else ():
        name, text, message = line.split(" ", 2)
        if name == step and any(text in argument for argument in arguments):
            if message == "kill":
                os.kill(os.getpid(), 9)
            sys.exit(message.replace("\\n", "\n"))


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    while "--arguments-from" in arguments:
        at = arguments.index("--arguments-from")
        arguments[at : at + 2] = Path(arguments[at + 1]).read_text().split("\n")[:-1]
    step = Path(program).stem
    note("begin", step, *arguments[:2])
    time.sleep(float(os.environ.get("STUB_SECONDS", 0)))
    fail_if_told(step, arguments)
    globals()[step](*arguments)
    note("end", step, *arguments[:2])
