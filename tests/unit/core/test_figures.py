"""Figures of merit: writers are strict, readers are not, and each figure is described."""

import importlib
import json
import re

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from dsa110_contimg.core import figures as models
from dsa110_contimg.core import places
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import FIGURES, ImageFigures, Model, MosaicFigures, describe
from dsa110_contimg.core.options import Config
from dsa110_contimg.core.sidecar import Sidecar, read_sidecar, sidecar_path
from support import REPO
from support.fake_results import make_results
from support.figures import example

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((REPO / "config/sidecar.schema.json").read_text())
)
#: Sidecars that a demo left, long lists cut.
OLD = json.loads((REPO / "tests/data/sidecars_of_schema_1.json").read_text())
ALL = [(step, figure) for step, model in FIGURES.items() for figure in describe(model)]
#: Endings of names and the units that they tell.
UNITS = {
    "jy": {"Jy", "Jy/beam"},
    **{name: {name} for name in ("deg", "deg2", "arcsec", "s", "m", "ns")},
    **{"hz": {"Hz"}, "mjd": {"d"}, "h": {"h"}, "gb": {"GB"}},
}
#: Numbers with a unit that their names do not tell.
UNNAMED = {"brightest", "peak_pixel", "percent_by_antenna_block", "weight"}


def written(path, figures, **more):
    """Write a sidecar of its step; return what is on disk."""
    (step,) = (name for name, model in FIGURES.items() if model is type(figures))
    sidecar = Sidecar(step, figures=figures, **more)
    return json.loads(sidecar.write(path).read_text())


# --- writing --------------------------------------------------------------------------------------


def test_a_misspelt_figure_is_an_error_at_once():
    with pytest.raises(ValidationError, match="rms_yj"):
        example(ImageFigures, rms_yj=1.0)
    figures = example(ImageFigures)
    with pytest.raises(ValidationError, match="rms_yj"):
        figures.rms_yj = 1.0
    with pytest.raises(ValidationError, match="stedy"):
        figures.flux_anchor = {"calibrators": [], "anchors": [], "stedy": True}


def test_a_figure_of_another_type_is_an_error_at_once():
    figures = example(ImageFigures)
    for wrong in ("much", [1.0], {}):
        with pytest.raises(ValidationError, match="rms_jy"):
            figures.rms_jy = wrong


def test_a_sidecar_has_the_figures_of_its_step(tmp_path):
    for figures in (None, example(MosaicFigures), models.Figures()):
        with pytest.raises(TypeError, match="image"):
            Sidecar("image", figures=figures).write(tmp_path / "x.fits")
    assert not list(tmp_path.iterdir())


def test_what_is_left_out_stays_out_and_null_stays_null(tmp_path):
    figures = example(models.CalibrateFigures)
    figures.gain_interval_s = None
    content = written(tmp_path / "a.bcal", figures)
    assert content["schema"] == 3
    assert content["qa"]["gain_interval_s"] is None
    assert "refant" not in content["qa"] and figures.refant is None


def test_values_of_numpy_are_written_as_they_are(tmp_path):
    figures = example(
        models.GroupFigures,
        subbands=np.arange(2),
        n_baselines=np.int64(7),
        dec_app_deg=np.float32(0.1),
    )
    found = written(tmp_path / "a.hdf5", figures)["qa"]
    assert (found["subbands"], found["n_baselines"]) == ([0, 1], 7)
    assert found["dec_app_deg"] == float(np.float32(0.1)) != 0.1


# --- reading --------------------------------------------------------------------------------------


def test_reading_gives_what_was_written(tmp_path):
    product = tmp_path / "a.image.fits"
    figures = example(ImageFigures, rms_jy=1e-3, catalog=example(models.CatalogCheck))
    written(product, figures, verdict="warn", reasons=["noisy"], timings_s={"total": 2.0})
    record = read_sidecar(product, ImageFigures)
    assert record.figures == figures
    assert (record.step, record.product, record.version) == ("image", product.name, 3)
    assert (record.verdict, record.reasons, record.timings_s) == ("warn", ["noisy"], {"total": 2.0})


def test_what_an_older_or_newer_release_knew_is_passed_over(tmp_path):
    product = tmp_path / "a.image.fits"
    content = written(product, example(ImageFigures, catalog=example(models.CatalogCheck)))
    content |= {"schema": 1, "mood": "fair"}
    content["qa"] |= {"sharpness": 3}
    content["qa"]["catalog"]["sharpness"] = 3
    sidecar_path(product).write_text(json.dumps(content))
    record = read_sidecar(product)
    assert record.version == 1 and record.figures == example(
        ImageFigures, catalog=example(models.CatalogCheck)
    )


def test_sidecars_of_the_first_schema_are_read(tmp_path):
    """As the demo left them before there were models; what is written again is the same text."""
    assert {content["step"] for content in OLD.values()} == set(FIGURES) - {"joint", "catalog"}
    for name, content in OLD.items():
        sidecar_path(tmp_path / name).write_text(json.dumps(content))
        record = read_sidecar(tmp_path / name, FIGURES[content["step"]])
        assert record.version == 1
        assert json.dumps(record.figures.plain()) == json.dumps(content["qa"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "good"}, "verdict"),
        ({"step": "mosaic"}, "it is of the step 'mosaic'"),
        ({"qa": {}}, "qa.rms_jy: Field required"),
        ({"qa": 3}, "qa"),
    ],
)
def test_what_is_no_sidecar_is_said_in_one_line(tmp_path, change, said):
    product = tmp_path / "a.image.fits"
    content = written(product, example(ImageFigures))
    sidecar_path(product).write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=r"a\.image\.fits\.json: not a valid sidecar") as error:
        read_sidecar(product, ImageFigures)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith("remake a.image.fits")


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}"])
def test_other_json_is_no_sidecar(tmp_path, content):
    sidecar_path(tmp_path / "a.fits").write_text(content)
    with pytest.raises(DataError, match="not a valid sidecar"):
        read_sidecar(tmp_path / "a.fits")


# --- descriptions ---------------------------------------------------------------------------------


def test_each_figure_is_described():
    """Its meaning is a sentence; its unit is the one that its name ends in."""
    for step, figure in ALL:
        assert figure.meaning.endswith("."), (step, figure)
        name = figure.name.rpartition(".")[2]
        if figure.kind in (int, float) and "_per_" not in name and not name.isupper():
            ending = name.rpartition("_")[2]
            assert figure.unit in UNITS.get(ending, {figure.unit}), (step, figure)
            assert not figure.unit or ending in UNITS or name in UNNAMED, (step, figure)


def test_numbers_have_their_unit_declared():
    """Units are noted where a number stands, so that one that has none was not forgotten."""
    plain = {name for name in vars(models) if isinstance(vars(models)[name], type)}
    for name in plain:
        model = vars(models)[name]
        if not issubclass(model, Model):
            continue
        for field, info in model.model_fields.items():
            kind, _, notes = models._resolve(info)
            if kind in (int, float):
                assert any(isinstance(n, models.Unit) for n in notes), f"{name}.{field}"


def test_gates_name_what_there_is():
    """Names in backquotes are options, constants, or figures beside the one that is gated."""
    named = 0
    for step, figure in ALL:
        beside = {other.name.rpartition(".")[2] for of, other in ALL if of == step}
        for name in re.findall(r"`([\w.]+)`", figure.gate):
            place, _, last = name.rpartition(".")
            if last.isupper():
                module = importlib.import_module(f"{places.PACKAGE_NAME}.{place}")
                assert hasattr(module, last), (step, figure)
            elif place:
                assert last in type(Config.model_fields[place].default).model_fields, (step, figure)
            else:
                assert last in beside, (step, figure)
            named += 1
    assert named > 30


# --- schema ---------------------------------------------------------------------------------------


def test_schema_tells_sidecars_from_others(tmp_path):
    for content in OLD.values():
        SCHEMA.validate(content)
    content = written(tmp_path / "a.image.fits", example(ImageFigures))
    SCHEMA.validate(content)
    for change in (
        {"verdict": "good"},
        {"step": "mosaic"},
        {"step": "baking"},
        {"qa": content["qa"] | {"rms_yj": 1.0}},
        {"qa": content["qa"] | {"rms_min_jy": None}},
    ):
        assert list(SCHEMA.iter_errors(content | change)), change


def test_schema_validates_what_steps_write(tmp_path):
    found = make_results(tmp_path / "results", n_nights=1, n_tiles=3, size=40, tables=False)
    paths = [p for p in found.root.rglob("*.json") if "step" in json.loads(p.read_text())]
    assert len(paths) > 10
    for path in paths:
        SCHEMA.validate(json.loads(path.read_text()))


# --- the one contract -----------------------------------------------------------------------------

READ = re.compile(r"""\[["']qa["']\]|get\(\s*["']qa["']|dig\([^)]*["']qa["']|\.qa\b""")


def test_nothing_reads_figures_by_string():
    assert READ.search('record["qa"]') and READ.search("dig(a, 'qa')") and READ.search("sidecar.qa")
    sources = [*places.PACKAGE.rglob("*.py"), *places.PACKAGE.rglob("*.j2")]
    sources += [*(REPO / "workflow").rglob("*.py"), *(REPO / "tools").glob("*.py")]
    for path in sources:
        if path != places.PACKAGE / "core/sidecar.py":
            assert not READ.search(path.read_text(encoding="utf-8")), path
