"""A quarantined cosmetic step (a plot whose source name is not valid mathtext) holds all nights.

Wanted here: names are data in every renderer.
"""

import csv
import re
import shlex
import xml.dom.minidom
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from astropy.io.votable import parse_single_table
from matplotlib.figure import Figure

from dsa110_contimg.calibration.plots import plot_calibration
from dsa110_contimg.calibration.tables import Solution
from dsa110_contimg.catalogs.catalogue import read_catalog
from dsa110_contimg.core import escape
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.reports.export import export, regions
from dsa110_contimg.reports.index import measurement_product, open_index
from dsa110_contimg.reports.site import build_site
from support.table_steps import FIRST_MJD, Chain, positions, write_catalog, write_image

HOSTILE = (
    "$x_",
    r"\frac{$a$",
    "a</td><script>alert(1)</script>",
    "b' onmouseover='alert(2)",
    "&amp; ]]> <!--",
    "../../etc/x",
    "=1+1",
    "-flag",
    "NA",
    "007",
    "1e5",
    'O\'Hara "q", jr.; DROP TABLE sources',
    "$(touch x) `id`",
    "two\nlines\tand more",
    "★ emoji 🛰",
    "%s {night}",
    "x" * 300,
)
VARIABLE = HOSTILE[:6] + HOSTILE[-3:]
STEADY = tuple(f"S{i}" for i in range(12))
NAMES = HOSTILE + STEADY


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Every step that works on tables, of sources with such names, some of which vary."""
    folder = tmp_path_factory.mktemp("names")
    place = positions(len(NAMES))
    steady = np.linspace(0.2, 0.4, len(NAMES))
    chain = Chain(folder, write_catalog(folder / "catalog.csv", NAMES, *place, steady))
    varies = np.isin(NAMES, VARIABLE)
    chain.nights = []
    for day in (0, 1):
        flux = steady * np.where(varies, 1 + 2 * day, 1)
        chain.nights.append(
            chain.night([write_image(chain.results, FIRST_MJD + day, *place, flux)])
        )
    chain.science(chain.nights)
    # What a person's own table may name its sources, in the plots, too.
    path = chain.layout.lightcurves("candidates.csv")
    ranked = pd.read_csv(path, keep_default_na=False)
    ranked.assign(name=ranked.source_id).to_csv(path, index=False)
    curves = chain.layout.lightcurves()
    chain.step("candidate_plots", curves, curves / "candidates")
    for night in chain.nights:
        page = chain.layout.night(night, "report.html")
        chain.step("night_report", chain.layout.night(night), page, "--lightcurves", curves)
    return chain


def rows(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_no_step_fails(chain):
    assert chain.failed == []


def test_tables_have_the_names_unchanged(chain):
    for night in chain.nights:
        assert {r["source_id"] for r in rows(chain.layout.night(night, "photometry.csv"))} == set(
            NAMES
        )
    curves = pd.read_parquet(chain.layout.lightcurves("lightcurves.parquet"))
    assert set(curves.source_id) == set(NAMES)
    assert curves.groupby("source_id").size().eq(2).all()
    ranked = {r["source_id"] for r in rows(chain.layout.lightcurves("candidates.csv"))}
    assert ranked == set(VARIABLE)


def test_the_index_finds_each(chain):
    db = open_index(chain.results / "index.sqlite")
    assert {row[0] for row in db.execute("SELECT source_id FROM sources")} == set(NAMES)
    for name in NAMES:
        product = measurement_product(db, name, chain.nights[0])
        assert product == f"nights/{chain.nights[0]}/photometry.csv"


def test_exports_have_the_names_unchanged(chain, tmp_path):
    export(chain.results, tmp_path)
    for night in chain.nights:
        table = parse_single_table(tmp_path / f"{night}.vot").to_table()
        assert set(map(str, table["source_id"])) == set(NAMES)
        xml.dom.minidom.parse(str(tmp_path / f"{night}.vot"))
        lines = (tmp_path / f"{night}.reg").read_text().splitlines()
        assert len(lines) == 3 + len(NAMES)  # no name breaks a line


def test_regions_hold_a_name_within_braces():
    row = {"ra_deg": 1.0, "dec_deg": 2.0, "flux_jy": 1.0, "upper_limit_jy": None}
    for name in HOSTILE:
        text = regions([row | {"source_id": name, "name": name}], {name})
        assert len(text.splitlines()) == 4
        assert text.count("{") == text.count("}") == 1
        assert text.endswith("}\n")


class Page(HTMLParser):
    """Gathers what a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.handlers, self.words = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)


def test_pages_show_the_names_and_run_nothing(chain, tmp_path):
    build_site(chain.results, tmp_path)
    pages = [*tmp_path.rglob("*.html"), *chain.results.glob("nights/*/report.html")]
    assert len(pages) == 1 + len(NAMES) + 2
    said = ""
    for path in pages:
        page = Page(path.read_text(encoding="utf-8"))
        assert page.handlers == []
        # The page's own script, and the grids of its mosaic.
        assert page.tags["script"] == (1 if path.is_relative_to(tmp_path) else 2)
        said += "".join(page.words)
    for name in NAMES:
        assert name in said
    assert {p.parent for p in tmp_path.rglob("*") if p.is_file()} <= {
        tmp_path,
        tmp_path / "sources",
    }


def test_a_page_says_what_a_shell_can_repeat(chain, tmp_path):
    build_site(chain.results, tmp_path)
    told = set()
    for path in (tmp_path / "sources").glob("*.html"):
        text = "".join(Page(path.read_text(encoding="utf-8")).words)
        command = text[text.index("./contimg lineage") : text.index(" NIGHT\n")]
        told.add(shlex.split(command)[-1])
    assert told == set(NAMES)


def test_plots_lie_in_their_folder_and_show_all(chain):
    folder = chain.layout.lightcurves("candidates")
    names = [path.name for path in folder.iterdir()]
    assert len(names) == len(VARIABLE)
    assert all(len(name) < 100 and "/" not in name for name in names)


@pytest.mark.parametrize("name", HOSTILE)
def test_plots_take_a_name_as_text(name, tmp_path):
    """Of mathematics the dollars would be gone from what is drawn, or there would be an error."""
    target = tmp_path / "x.svg"
    figure = Figure()
    figure.suptitle(escape.plot_text(name))
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(target)
    drawn = "".join(Page(target.read_text(encoding="utf-8")).words)
    assert escape.line(name)[:50] in drawn


def test_a_calibrator_is_text_in_its_plot(tmp_path):
    shape = (2, 4, 2)
    gains, flags = np.ones(shape, complex), np.zeros(shape, bool)
    solved = {"bcal": Solution(np.arange(2), np.zeros(2), gains, flags, np.ones(shape))}
    plot_calibration(tmp_path / "x.png", solved, np.linspace(1.3e9, 1.5e9, 4), r"\frac{$a$ 2026")
    assert (tmp_path / "x.png").stat().st_size


def test_file_names_are_short_and_their_own():
    made = [escape.file_name(name) for name in HOSTILE]
    assert len(set(made)) == len(HOSTILE)
    for name in made:
        assert len(name) < 100
        assert not name.startswith((".", "-"))
        assert re.fullmatch("[A-Za-z0-9+._-]+", name)
    assert escape.file_name("3C48") == "3C48"


def test_a_control_character_in_a_name_is_refused(tmp_path):
    path = write_catalog(tmp_path / "c.csv", ["a", "b\x1b[2J"], [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(DataError, match=r"name 'b\\x1b\[2J' holds a control character"):
        read_catalog(path)


def test_blank_names_and_spectral_indices_are_made_up(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('name,ra_deg,dec_deg,flux_jy,alpha\n,10,20,1,\n" ",30,40,1,-1\nNA,50,60,1,NA\n')
    table = read_catalog(path)
    assert list(table["name"]) == ["J004000.0+200000", "J020000.0+400000", "NA"]
    assert list(table.alpha) == [-0.7, -1.0, -0.7]


def test_names_that_are_numbers_in_a_parquet_are_text(tmp_path):
    table = pd.DataFrame({"name": [7, 8], "ra_deg": 1.0, "dec_deg": [1.0, 2], "flux_jy": 1.0})
    table.to_parquet(tmp_path / "c.parquet")
    assert list(read_catalog(tmp_path / "c.parquet")["name"]) == ["7", "8"]
