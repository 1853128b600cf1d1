"""Deliver: checksums of products at their making, `contimg verify` (scrub: sums; deep: make a
random or a named product again and compare value by value). Must show: `verify --deep` on the demo:
all equal; with one flipped byte in any kind of product: named.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from dsa110_contimg import cli
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.sidecar import sealed
from dsa110_contimg.operations import verify
from support.chain import run_chain
from support.fake_results import make_results


def flip(path):
    """Flip a bit in the middle of a file; return what takes it back. The file's times stay."""
    content, stat = path.read_bytes(), path.stat()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def restore():
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return restore


def run_verify(results, capsys, *arguments):
    """Return exit status and lines of the command."""
    given = ("--config", f"results={results}")
    status = cli.main(["verify", *arguments, *given])
    return status, capsys.readouterr().out.splitlines()


def kinds(results):
    """Return one file of each kind of product, and of what is kept of them; of folders, a file."""
    found = {}
    for place in verify.places(Layout(results)):
        for card in verify.cards_of(place):
            found.setdefault(("sidecar", card.name.split(".", 1)[-1]), (card, card))
            for entry in json.loads(card.read_text())["outputs"]:
                path = card.with_name(entry["path"])
                inside = [p for p in sorted(path.rglob("*")) if p.is_file() and p.stat().st_size]
                inside = [p for p in inside if p.name not in ("table.lock", ".snakemake_timestamp")]
                file = path if path.is_file() else next(iter(inside), None)
                if file is not None and file.stat().st_size:
                    kind = path.name.split(".", 1)[-1] if "groups" in path.parts else path.name
                    found.setdefault(("product", kind), (file, path))
    for path in (results / "configurations").glob("*.json"):
        found["configuration", ""] = (path, path)
    return found


@pytest.fixture
def results(tmp_path):
    return make_results(tmp_path / "results", n_nights=1, n_tiles=3, size=40).root


def test_one_flipped_byte_in_any_kind_of_file_is_named(results, capsys):
    status, lines = run_verify(results, capsys)
    assert status == 0 and "0 damaged" in lines[-1], lines
    found = kinds(results)
    assert len(found) > 15
    for kind, (file, product) in found.items():
        restore = flip(file)
        status, lines = run_verify(results, capsys)
        name = product.relative_to(results).as_posix()
        named = [line for line in lines if line.startswith(f"{name}: ")]
        assert status == 1 and len(named) == 1, (kind, lines)
        assert "contimg run" in named[0], "what makes it again"
        restore()
    assert run_verify(results, capsys)[0] == 0


def test_what_is_missing_truncated_and_unknown_is_told_apart(results, capsys):
    layout = Layout(results)
    group = sorted(path.name for path in results.glob("nights/*/groups/*"))[0]
    layout.group(group, "photometry.csv").unlink()
    image = layout.group(group, "image.fits")
    image.write_bytes(image.read_bytes()[:2880])
    os.utime(image, (1, 1))
    (layout.group(group) / "notes.txt").write_text("mine")
    (layout.group(group) / ".tmp-1-elsewhere-x").write_text("a job's")
    status, lines = run_verify(results, capsys)
    words = "\n".join(lines)
    assert status == 1
    assert f"{group}.photometry.csv: is missing" in words
    assert f"{group}.image.fits: has 2880 bytes" in words
    assert "notes.txt: no sidecar vouches for it" in words
    assert "elsewhere" not in words and "2 damaged" in lines[-1]


def test_a_part_is_checked_and_what_else_was_damaged_is_not_forgotten(results, capsys):
    layout = Layout(results)
    first, second = sorted(path.name for path in results.glob("nights/*/groups/*"))[:2]
    flip(layout.group(first, "image.fits"))
    assert run_verify(results, capsys)[0] == 1
    status, lines = run_verify(results, capsys, second)
    assert status == 0 and "0 damaged" in lines[-1]
    kept = json.loads((results / "verify.json").read_text())
    assert [d["path"] for d in kept["damaged"]] == [
        layout.group(first, "image.fits").relative_to(results).as_posix()
    ]
    status, lines = run_verify(results, capsys, str(layout.group(first, "image.fits")))
    assert status == 1 and len(lines) == 2
    assert run_verify(results, capsys, "--sample", "3")[1][-1].split()[0].isdigit()
    assert run_verify(results, capsys, "nights/nothing.fits")[0] == 2


def test_products_are_named_from_here_from_the_results_or_from_the_root(
    results, capsys, monkeypatch
):
    image = next(results.rglob("*.image.fits"))
    flip(image)
    monkeypatch.chdir(results.parent)
    inside = image.relative_to(results)
    for name in (image, inside, image.relative_to(results.parent)):
        for folder in (results, results.name):
            status, lines = run_verify(folder, capsys, str(name))
            assert status == 1 and lines[0].startswith(f"{inside}: "), (name, folder)


def test_what_was_let_go_is_not_missing(results, capsys):
    layout = Layout(results)
    path = sorted(results.glob("nights/*/groups/*/*.image.fits"))[0]
    night, group = path.parents[2].name, path.parent.name
    entry = {str(path): {"bytes": path.stat().st_size, "rule": "ms_days", "utc": ""}}
    record = {"rules": {}, "groups": {group: entry}, "others": {}}
    path.unlink()
    layout.night(night, "purged.json").write_text(json.dumps(record))
    assert run_verify(results, capsys)[0] == 0


@pytest.mark.parametrize("schema", [1, 2])
def test_sidecars_of_older_releases_have_no_sums(results, capsys, schema):
    for card in results.rglob("*.json"):
        content = json.loads(card.read_text())
        if "provenance" in content:
            for name in ("provenance", "outputs", "sha256"):
                del content[name]
            card.write_text(json.dumps(content | {"schema": schema}))
    status, lines = run_verify(results, capsys)
    assert status == 0 and "no sum recorded of" in lines[-1]
    next(results.rglob("*.photometry.csv")).unlink()
    status, lines = run_verify(results, capsys)
    assert status == 1 and "is missing" in lines[0]


def test_a_product_that_nobody_can_make_again_says_why(results, capsys):
    status, lines = run_verify(results, capsys, "--deep")
    assert status == 0 and "tells no arguments" in "\n".join(lines)
    card = next(results.rglob("mosaic.fits.json"))
    content = json.loads(card.read_text())
    del content["sha256"]
    content["inputs"] = [{"path": "incoming/x_sb00.hdf5", "size_bytes": 1}]
    content["provenance"]["argv"] = ["mosaic", "results/x.fits"]
    card.write_text(sealed(content))
    lines = run_verify(results, capsys, "--deep", str(card))[1]
    assert any("cannot be made again" in line and "x_sb00.hdf5 is gone" in line for line in lines)


# --- the real chain -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(tiny_night, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    return tiny_night, folder, run_chain(tiny_night, folder)


def command(chain, *arguments):
    truth, folder, _ = chain
    line = [sys.executable, "-m", "dsa110_contimg", "verify", *arguments]
    line += ["--configfile", str(truth.folder / "config.yaml"), "--config", "results=results"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.slow
def test_each_kind_of_file_of_a_real_chain_is_covered(chain, capsys):
    results = chain[2].results
    status, lines = command(chain)
    assert status == 0 and lines[-1].endswith(" 0 damaged"), lines
    found = kinds(results)
    covered = {name for kind, name in found if kind == "product"}
    assert covered >= {
        *("hdf5", "ms", "kcal", "bcal", "gcal", "calibration.json", "calibration.png"),
        *("image.fits", "pb.fits", "pbcor.fits", "residual.fits", "model.fits", "psf.fits"),
        *("rms.fits", "photometry.csv", "html", "solutions.html", "view.jpg", "thumbnail.jpg"),
        *("mosaic.fits", "mosaic.rms.fits", "mosaic.weight.fits", "mosaic.view.fits"),
        *("blind.csv", "qa.json", "report.html", "lightcurves.parquet", "variability.csv"),
        *("candidates.csv", "index.sqlite"),
    }
    for kind, (file, product) in found.items():
        restore = flip(file)
        status, lines = run_verify(results, capsys)
        name = product.relative_to(results).as_posix()
        assert status == 1 and any(line.startswith(f"{name}: ") for line in lines), kind
        restore()


@pytest.mark.slow
def test_made_again_from_its_inputs_all_is_equal(chain):
    """Also what rests on data that do not stay, and on data that were let go."""
    results = chain[2].results
    status, lines = command(chain, "--deep")
    assert status == 0, lines
    assert " equal, 0 equal to rounding, 0 differ, 0 cannot be made again" in lines[-1]
    before = {path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    ms = next(results.rglob("*.ms"))
    shutil.move(ms, results.parent / "aside.ms")
    image = next(ms.parent.glob("*.image.fits"))
    status, lines = command(chain, "--deep", str(image))
    assert any(line.endswith("image.fits: equal") for line in lines), lines
    shutil.move(results.parent / "aside.ms", ms)
    restore = flip(image)
    status, lines = command(chain, "--deep", str(image))
    assert status == 1 and any("image.fits: differs" in line for line in lines), lines
    restore()
    after = {p.stat().st_mtime_ns for p in results.rglob("*") if p.is_file()}
    assert len(after - before) <= 1, "nothing is written but what was found"
