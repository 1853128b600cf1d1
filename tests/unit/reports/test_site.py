"""The pages over all nights lead everywhere, and nowhere that does not exist."""

import json
import re
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from dsa110_contimg import cli
from dsa110_contimg.calibration.tables import SolutionCube
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.reports import plots
from dsa110_contimg.reports.judge import judge_night
from dsa110_contimg.reports.site import build_site, file_name
from support import browser
from support.fake_results import make_results


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    made = make_results(tmp_path_factory.mktemp("fake") / "results", size=32, n_tiles=4)
    made.layout.night(made.nights[0], "report.html").write_text("a page")
    return made


@pytest.fixture(scope="module")
def site(fake):
    out = fake.root / "site"
    assert cli.main(["report", str(fake.root), str(out)]) == 0
    return out


def test_every_link_leads_to_a_file(fake, site):
    pages = [site / "index.html", *(site / "sources").glob("*.html")]
    assert len(pages) == 1 + len(fake.sources)
    for page in pages:
        text = page.read_text()
        for link in re.findall(r'(?:href|src|data-curve)="([^"#]+)', text):
            if not link.startswith("data:"):
                assert "//" not in link
                assert (page.parent / link).exists(), (page.name, link)


def test_without_arguments_the_site_of_the_results_folder_is_made(fake, tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(fake.root)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(fake.root / "site", ignore_errors=True)
    assert cli.main(["report"]) == 0
    assert (fake.root / "site" / "index.html").exists()
    (tmp_path / "results").unlink()
    assert cli.main(["report"]) == 3  # one plain line, no traceback


def test_the_overview_has_verdicts_trends_gains_and_dead_antennas(fake, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(fake.root / "nights", results / "nights")
    for k, night in enumerate(fake.nights):
        judged = judge_night(results / "nights" / night)
        for i, tile in enumerate(judged["tiles"]):
            # Antenna 7 is dead all along, 9 in the first tiles only, 11 on the first night.
            tile["dead_antennas"] = ["7"] + ["9"] * (i == 0) + ["11"] * (k == 0)
        (results / "nights" / night / "qa.json").write_text(json.dumps(judged))
    build_site(results, tmp_path / "site")
    text = (tmp_path / "site" / "index.html").read_text()
    calendar = text[text.index('id="nights"') : text.index("<details>")]
    assert re.findall(r'<a class="(\w+)"', calendar) == ["degraded", "clean"]  # newest first
    trends = text[text.index('id="trends"') : text.index('id="plane"')]
    assert trends.count('<img class="zoom" src="data:image/png') == 2
    rows = re.findall(r'<tr><td>(\w+)</td><td class="n">(\d)</td><td>([^<]*)', trends)
    first, second = fake.nights
    assert rows == [("7", "2", f"{first}, {second}"), ("11", "1", first)]


def test_gains_of_every_antenna_are_relative_to_its_median(monkeypatch):
    """Two tables with antennas in another order: each antenna is compared with itself."""
    drawn = []
    monkeypatch.setattr(plots, "png_uri", lambda f, **_: drawn.append(f) or "data:")

    def table(names, gains):
        values = np.ma.masked_invalid(np.array(gains, complex)[None, :, None, None])
        return SolutionCube(names, np.zeros(1), np.ones(1), values, values.real)

    plots.gain_history(
        [
            ("20260121T000000", table(["1", "2", "3"], [1.0, 2.0, np.nan])),
            ("20260122T000000", table(["2", "1", "3"], [2.2, 1.0, np.nan])),
            ("20260123T000000", table(["1", "2", "3"], [1.3, 2.0, np.nan])),
        ]
    )
    (image,) = drawn[0].axes[0].images
    assert image.get_array().filled(-1) == pytest.approx(np.array([[1, 1, 1.3], [1, 1.1, 1]]))


def test_only_nights_that_have_a_page_are_linked(fake, site):
    text = (site / "index.html").read_text()
    assert f'href="../nights/{fake.nights[0]}/report.html"' in text
    assert f"{fake.nights[1]}/report.html" not in text
    assert fake.nights[1] in text


def test_the_candidate_comes_first_and_its_page_has_every_measurement(fake, site):
    text = (site / "index.html").read_text()
    table = text[text.index('id="source-table"') :]
    assert table.index(fake.variable) == min(table.index(s["source_id"]) for s in fake.sources)
    page = (site / "sources" / f"{fake.variable}.html").read_text()
    assert page.count("<circle") == 2
    assert all(night in page for night in fake.nights)


def test_sources_that_are_gone_lose_their_pages(fake, site, tmp_path):
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    (copy / "sources" / "Jold.html").write_text("")
    (copy / "sources" / "Jold.svg").write_text("")
    build_site(fake.root, copy)
    assert not list(copy.glob("sources/Jold*"))
    assert len(list(copy.glob("sources/*.svg"))) == len(fake.sources)


def test_without_light_curves_there_is_still_a_site(fake, tmp_path):
    shutil.copytree(fake.root / "nights" / fake.nights[0], tmp_path / "nights" / fake.nights[0])
    assert build_site(tmp_path, tmp_path / "site") == {"nights": 1, "sources": 0}
    with pytest.raises(DataError, match="no nights in it"):
        build_site(tmp_path / "site", tmp_path / "other")


@pytest.mark.skipif(browser.chromium() is None, reason="no chromium")
def test_search_by_position_and_name_and_the_hovering_light_curve(fake, site):
    near = fake.sources[3]
    dom, console = browser.dom(
        site / "index.html",
        f"""
        const said = {{}}, rows = () => [...document.querySelectorAll("#source-table tbody tr")]
          .filter((r) => !r.hidden).map((r) => r.cells[0].textContent);
        const type = (field, text) => {{
          field.value = text; field.dispatchEvent(new Event("input")); }};
        const cone = document.querySelector("#cone input");
        type(cone, "{near["ra_deg"]} {near["dec_deg"]}"); said.cone = rows();
        const h = {near["ra_deg"]} / 15, d = {near["dec_deg"]};
        const dms = (v) => [Math.floor(v), Math.floor(v % 1 * 60),
          (v * 60 % 1 * 60).toFixed(2)].join(":");
        type(cone, dms(h) + " +" + dms(d)); said.sexagesimal = rows();
        type(cone, ""); type(document.querySelector("[data-filter] input"), "{near["name"][:9]}");
        said.name = rows();
        const mark = document.querySelector("[data-curve]"), at = mark.getBoundingClientRect();
        mark.firstElementChild.dispatchEvent(new PointerEvent("pointermove",
          {{bubbles: true, clientX: at.left, clientY: at.top}}));
        said.preview = document.querySelector(".preview").getAttribute("src");
        document.body.dataset.said = JSON.stringify(said);
        """,
    )
    assert console == []
    said = json.loads(re.search(r'data-said="([^"]*)"', dom)[1].replace("&quot;", '"'))
    assert said["cone"] == said["sexagesimal"] == [near["name"]]
    assert near["name"] in said["name"] and len(said["name"]) < len(fake.sources)
    assert re.fullmatch(r"sources/J[\d.+-]+\.svg", said["preview"])


def test_light_curve_is_true_to_the_numbers():
    svg = plots.light_curve(
        [60000, 60010, 60020], [0.1, 0.2, np.nan], [0.01, 0.01, np.nan], [np.nan, np.nan, 0.15]
    )
    root = ET.fromstring(svg)
    dots = [
        (float(e.get("cx")), float(e.get("cy"))) for e in root.iter() if e.tag.endswith("circle")
    ]
    assert len(dots) == 2
    zero = next(
        float(re.match(r"M62 ([\d.]+)H", g.get("d"))[1])
        for g in root.iter()
        if g.get("stroke") == "#ddd"
    )
    (x1, y1), (x2, y2) = dots
    assert (zero - y2) / (zero - y1) == pytest.approx(2, rel=0.01)
    assert x2 > x1
    limits = [e for e in root.iter() if e.get("stroke") == plots.GREY]
    assert len(limits) == 1
    assert "below 150 mJy" in limits[0][0].text
    assert "weighted mean 150 mJy" in svg


@pytest.mark.parametrize("empty", [[], [np.nan]])
def test_a_light_curve_without_fluxes_is_drawn_empty(empty):
    svg = plots.light_curve(np.arange(len(empty)) + 6e4, empty, empty)
    assert "<circle" not in svg and "nan" not in svg
    ET.fromstring(svg)


def test_ticks_are_round_and_inside():
    assert plots.ticks(0, 97) == [0, 20, 40, 60, 80]
    marks = plots.ticks(-0.3, 1.0)
    assert marks == pytest.approx([0, 0.5, 1.0])


def test_names_of_files_are_safe_and_distinct():
    assert file_name("J343.4936+16.7922") == "J343.4936+16.7922"
    odd = {file_name(s) for s in ("NVSS 1/2", "NVSS 1_2", "NVSS_1/2", "../x", 'a"b<c>')}
    assert len(odd) == 5
    assert not any(re.search(r'[/"<> ]', name) for name in odd)
