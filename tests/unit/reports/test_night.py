"""The page of a night: it says what is true, needs no network, and works in a browser."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dsa110_contimg.calibration.tables import read_cube
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import FIGURES, FlagStatistics
from dsa110_contimg.core.layout import companion
from dsa110_contimg.maps import planes as map_planes
from dsa110_contimg.reports import night as night_page
from dsa110_contimg.reports import pages, plots
from dsa110_contimg.reports import tile as tile_page
from dsa110_contimg.reports.judge import judge_night
from support import REPO, browser
from support.fake_results import RMS_JY, make_results, write_failure
from support.figures import example
from support.steps import run_step


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    made = make_results(tmp_path_factory.mktemp("fake") / "results", size=80)
    for night in made.nights:
        inventory = made.root / "inventory.json"
        inventory.write_text(json.dumps(made.inventory))
        folder = made.layout.night(night)
        out = ["night_qa", str(folder), str(folder / "qa.json"), "--inventory", str(inventory)]
        assert run_step(*out) == 0
        mosaic = folder / "mosaic.fits"
        assert run_step("mosaic_view", str(mosaic), str(companion(mosaic, "view"))) == 0
        first = made.layout.group(made.groups[night][0])
        page = first / f"{first.name}.solutions.html"
        assert run_step("calibration_report", str(first), str(page)) == 0
    for group in made.groups[made.nights[1]][:4]:
        folder = made.layout.group(group)
        assert run_step("tile_report", str(folder), str(folder / f"{group}.html")) == 0
    log = made.root / "logs" / "image" / made.nights[1] / f"{made.groups[made.nights[1]][4]}.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(f"line {i} of the log <&>" for i in range(40)))
    return made


@pytest.fixture(scope="module")
def page(fake):
    out = fake.root / "page.html"
    night = fake.layout.night(fake.nights[1])
    lightcurves = str(fake.layout.lightcurves())
    assert run_step("night_report", str(night), str(out), "--lightcurves", lightcurves) == 0
    return out


def test_page_holds_everything_and_asks_nothing_of_the_network(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|data-large)=["'](?!data:)[^"']*""", text)
    # What it links to are the pages of the tiles, where they lie beside it.
    links = re.findall(r"""href=["'](?!data:|#)([^"']*)""", text)
    assert links and all(
        re.fullmatch(r"groups/(\w+)/\1(\.solutions)?\.html", link) for link in links
    )
    assert "url(http" not in text
    assert "@import" not in text
    assert "fetch(" not in text


def test_page_tells_the_night(fake, page):
    text = page.read_text()
    ids = fake.groups[fake.nights[1]]
    assert text.index("degraded") < text.index("</header>") < text.index('id="tile-table"')
    for words in (
        "6 of 10 tiles usable",
        "dynamic range 12 is below 30",
        f"{RMS_JY * 1e3:.3g}",
        "3C454.3",
        fake.variable,
        "empty file",
        "4.1 times faster than the telescope",
        "24 antennas, 96 channels and 24 integrations instead of 96, 768 and 24",
    ):
        assert words in text, words
    assert all(f'id="t{g}"' in text for g in ids)
    # The tile that stopped shows the end of its log, escaped, and the command to repeat it.
    assert "line 39 of the log &lt;&amp;&gt;" in text
    assert "line 20 of" not in text
    assert re.search(rf"\./contimg run \S*{ids[4]}\.image\.fits", text)


def test_every_failed_job_is_shown_with_its_log_and_command(fake, tmp_path):
    results, night = tmp_path / "results", fake.nights[1]
    copy = results / "nights" / night
    shutil.copytree(fake.layout.night(night), copy)
    (copy / "qa.json").unlink()
    group, other = fake.groups[night][4], fake.groups[night][1]
    write_failure(copy / "groups" / group / "failure.json", "image", {"group": group})
    path = copy / "groups" / other / "failure.calibrate.json"
    write_failure(path, "calibrate", {"group": other}, cause="data", message="no <calibrator>")
    write_failure(copy / "failure.json", "night_mosaic", {"night": night}, state="waiting")
    write_failure(results / "failure.json", "lightcurves", {}, cause="bug")
    log = results / f"logs/image/all/{group}.log"  # where the record says, below its results
    log.parent.mkdir(parents=True)
    log.write_text("first line\n" * 20 + "the last words\n")
    text = night_page.build_night(copy)
    section = text[text.index('id="failures"') : text.index('id="calibration"')]
    titles = re.findall(r"<h3[^>]*>(.*?) <span class=\"badge (\w+)", section)
    assert titles[:4] == [
        ("all nights: lightcurves", "quarantined"),
        ("the night: night_mosaic", "retry"),
        (f"{other}: calibrate", "quarantined"),
        (f"{group}: image", "quarantined"),
    ]
    assert [title for title, _ in titles].count(group) == 0  # told once
    for words in (
        "no &lt;calibrator&gt;",
        "the data cannot be used",
        "an error that was not foreseen",
        "the last words",
        f"./contimg run {group} -- --forcerun image",
        "3 × failed; first 2026-01-22T03:00:00, last 2026-01-22T05:00:00 UTC",
    ):
        assert words in section, words


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("INFO x\ncontimg image: a.ms: no data; convert it again\nmore", "a.ms: no data; convert"),
        ("Traceback\nOSError: [Errno 28] No space left on device", "the disk is full"),
        ("wsclean ...\nKilled\n", "for want of memory"),
        ("Traceback\n  File\nKeyError: 'qa'\n\n", "KeyError: 'qa'"),
        ("", ""),
    ],
)
def test_cause_of_a_failure_in_plain_words(log, said):
    assert said in night_page.cause(log)


def test_only_candidates_are_listed_with_light_curves(fake, page):
    text = page.read_text()
    section = text[text.index('id="candidates"') : text.index('id="timings"')]
    assert section.count('class="candidate"') == 1
    assert f"Light curve of {fake.variable}" in section


@pytest.mark.skipif(browser.chromium() is None, reason="no chromium")
def test_sorting_filtering_and_zooming_work_without_a_console_message(page):
    dom, console = browser.dom(
        page,
        """
        const table = document.getElementById("tile-table"), said = {};
        const noise = () => [...table.tBodies[0].rows].map((r) => r.cells[6].dataset.v);
        table.tHead.rows[0].cells[6].click(); said.up = noise();
        table.tHead.rows[0].cells[6].click(); said.down = noise();
        const state = document.querySelector("[data-filter] select");
        state.value = "fail"; state.dispatchEvent(new Event("input"));
        said.shown = [...table.tBodies[0].rows].filter((r) => !r.hidden).length;
        document.querySelector("img.zoom").click();
        said.boxes = document.querySelectorAll(".lightbox").length;
        const view = document.querySelector(".viewer"), box = view.getBoundingClientRect();
        view.dispatchEvent(new WheelEvent("wheel", {deltaY: -1, clientX: box.left + 50,
          clientY: box.top + 20, cancelable: true}));
        said.zoom = view.querySelector(".stage").style.transform;
        document.querySelector("[data-act=reset]").click();
        view.dispatchEvent(new PointerEvent("pointermove", {
          clientX: box.left + box.width / 2, clientY: box.top + box.height / 2}));
        said.where = document.querySelector("[data-viewer] output").textContent;
        document.body.dataset.said = JSON.stringify(said);
        """,
    )
    assert console == []
    said = json.loads(re.search(r'data-said="([^"]*)"', dom)[1].replace("&quot;", '"'))
    up = [float(v) for v in said["up"] if v]
    down = [float(v) for v in said["down"] if v]
    assert up == sorted(up) and down == sorted(down, reverse=True) and len(up) == 7
    assert said["up"][-3:] == said["down"][-3:] == ["", "", ""]  # blanks stay last
    assert said["shown"] == 2
    assert said["boxes"] == 1
    assert "scale(1.25)" in said["zoom"]
    # The reference pixel, 340 deg + 4 tiles of 1.292 deg = 345.168 deg = 23:00:40.3 and +16:06:00,
    # lies half a pixel (72 arcsec) right of and above the centre of the strip.
    where = re.fullmatch(r"RA 23:00:(\d\d\.\d)  Dec \+16:(\d\d):(\d\d)", said["where"])
    assert float(where[1]) == pytest.approx(40.3 + 72 / 15 / np.cos(np.radians(16.1)), abs=3)
    assert 60 * int(where[2]) + int(where[3]) == pytest.approx(360 - 72, abs=30)


def test_a_missing_or_broken_product_leaves_a_note_not_a_crash(fake, tmp_path):
    night = fake.nights[0]
    copy = tmp_path / "nights" / night
    shutil.copytree(fake.layout.night(night), copy)
    for name in ("mosaic.fits", "mosaic.view.fits"):
        (copy / name).write_bytes(b"not a FITS file")
    table = next(copy.glob("groups/*/*.bcal"))
    shutil.rmtree(table)
    text = night_page.build_night(copy)
    assert "not a readable FITS image" in text
    text = tile_page.build_calibration(table.parent)
    assert ".bcal could not be drawn" in text
    assert "Gains" in text and "Delays" in text
    image = table.parent / f"{table.parent.name}.image.fits"
    image.write_bytes(image.read_bytes()[:4000])
    text, view, thumbnail = tile_page.build_tile(table.parent)
    assert ".image.fits could not be drawn" in text and "There is no image" in text
    assert view is None and thumbnail is None


def test_an_empty_night_has_a_page(tmp_path):
    night = tmp_path / "nights" / "2026-02-01"
    night.mkdir(parents=True)
    assert "the night has no data" in night_page.build_night(night)


def test_absent_night_is_one_plain_line(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        night_page.build_night(tmp_path / "2026-02-01")


def test_pictures_are_those_that_lie_with_the_tiles(fake, monkeypatch):
    night = fake.nights[1]
    first, *_ = groups = fake.groups[night]
    tiles = judge_night(fake.layout.night(night))["tiles"]
    notes = night_page.pictures(fake.layout.night(night), tiles)
    assert [bool(t["thumbnail"]) for t in tiles] == [g in groups[:4] for g in groups]
    content = base64.b64decode(tiles[0]["thumbnail"].split(",")[1])
    assert content == fake.layout.group(first, "thumbnail.jpg").read_bytes()
    assert tiles[0]["page"] == f"groups/{first}/{first}.html"
    assert notes == ["3 tiles have no page and no pictures yet"]
    # Only the tiles that need attention most keep their large view: the failed one, the warned.
    monkeypatch.setattr(night_page, "MOST_VIEWS", 2)
    night_page.pictures(fake.layout.night(night), tiles)
    assert [t["group"] for t in tiles if t["view"]] == groups[2:4]


# --- numbers behind the figures -------------------------------------------------------------------


def test_the_small_copy_of_a_mosaic_keeps_its_place_on_the_sky(fake, tmp_path, monkeypatch):
    """A source has the same position in the copy, within a pixel of it, and the same peak."""
    monkeypatch.setattr(tile_page, "VIEW_PX", 300)
    mosaic = fake.layout.night(fake.nights[0], "mosaic.fits")
    tile_page.shrink_mosaic(mosaic, tmp_path / "small.fits")
    (small,) = map_planes.read_planes(tmp_path / "small.fits")
    (full,) = map_planes.read_planes(mosaic)
    assert max(small.data.shape) <= 300 < max(full.data.shape)
    assert (small.header["MIDDLE"], small.header["NOISE"]) == pytest.approx(
        plots.middle_and_sigma(full.data)
    )
    step = full.data.shape[1] // small.data.shape[1]
    source = fake.sources[0]
    y, x = np.unravel_index(np.argmax(small.data), small.data.shape)
    ra, dec = small.wcs().pixel_to_world_values(x, y)
    reach = 0.6 * step * abs(full.header["CDELT2"]) + 420 / 3600 / 4  # half a block, and the noise
    assert abs(dec - source["dec_deg"]) < reach
    assert abs(ra - source["ra_deg"]) * np.cos(np.radians(dec)) < reach
    assert small.data.max() == np.nanmax(full.data[: small.data.shape[0] * step])


def test_flags_by_antenna_and_residuals_can_be_drawn_of_little():
    """Nothing known gives no figure; an image of nothing but blanks gives one."""
    from dsa110_contimg.reports import tile_plots

    assert tile_plots.flag_map(example(FlagStatistics), (1311.0, 1498.0)) is None
    blank = np.full((20, 20), np.nan, np.float32)
    header = {"CRPIX1": 10, "CRPIX2": 10, "CDELT1": -0.1, "CDELT2": 0.1}
    plane = map_planes.Plane(blank, header, Path("a"))
    assert tile_plots.view(plane).startswith(b"\xff\xd8")
    assert tile_plots.residuals(plane, None, None).startswith(b"\xff\xd8")


def test_ticks_of_an_asinh_scale_are_round_and_apart():
    from matplotlib.colors import AsinhNorm

    from dsa110_contimg.reports.tile_plots import asinh_ticks

    norm = AsinhNorm(1.2, vmin=-0.6, vmax=5000)
    ticks = asinh_ticks(norm)
    assert 0 in ticks and 1000 in ticks and 4 <= len(ticks) <= 11
    places = [float(norm(t)) for t in ticks]
    assert min(np.diff(places)) > 0.08 and min(places) >= 0 and max(places) <= 1


def test_extremes_of_blocks_keep_their_sign():
    from dsa110_contimg.reports.tile_plots import extreme

    data = np.zeros((4, 4), np.float32)
    data[0, 0], data[0, 1], data[3, 3] = 2, -3, 1
    assert extreme(data, 2).tolist() == [[-3, 0], [0, 1]]


def test_shrink_keeps_point_sources_and_blanks():
    data = np.zeros((100, 230), np.float32)
    data[57, 123] = 5.0
    data[:20, :20] = np.nan
    small = plots.shrink(data, 23)
    assert small.shape == (10, 23)
    assert small[5, 12] == 5.0 and np.nansum(small) == 5.0
    assert np.isnan(small[:2, :2]).all() and np.isnan(small).sum() == 4


def test_stretch_puts_noise_and_sources_on_one_monotonic_scale():
    rng = np.random.default_rng(3)
    data = rng.normal(0, 1, (200, 200))
    data[10, 10], data[20, 20], data[0, 0] = 10.0, 30.0, np.nan
    noise = plots.middle_and_sigma(data)
    assert noise == pytest.approx((0, 1), abs=0.05)
    grey, low, high = plots.stretch(data, noise)
    assert grey[20, 20] < grey[10, 10] < np.median(grey) < 255  # dark is bright sky
    assert grey[0, 0] == 235
    assert low == pytest.approx(-2, abs=0.1) and high == pytest.approx(60, rel=0.05)
    small = plots.shrink(data, 50)  # every block holds a positive excursion of the noise
    assert np.median(plots.stretch(small, noise)[0]) < np.median(grey)
    assert plots.stretch(small, noise)[1:] == pytest.approx((low, high))


def test_solutions_are_read_in_order_of_frequency_and_antenna(fake):
    from casacore import tables

    path = fake.layout.group(fake.groups[fake.nights[0]][0], "bcal")
    solutions = read_cube(path)
    assert solutions.values.shape == (1, 24, 96, 2)
    assert (np.diff(solutions.freq_hz) > 0).all()
    assert np.ma.getmaskarray(solutions.values)[0, 3].all()  # the dead antenna
    with tables.table(str(path), ack=False) as table:
        truth = table.getcell("CPARAM", 7)
    assert np.allclose(solutions.values[0, 7].data[40], truth[40])
    assert solutions.antennas[7] == "8"


def test_an_antenna_that_stands_out_is_named():
    rng = np.random.default_rng(1)
    curves = np.ma.masked_array(rng.normal(1, 0.01, (30, 64)))
    curves[11] *= 1.5
    assert plots._outliers(curves) == [11]


def test_right_ascensions_lose_their_jump_at_zero():
    assert np.allclose(plots.unwrap_ra([359.0, 0.0, 1.0]) % 360, [359, 0, 1])
    assert np.ptp(plots.unwrap_ra([359.0, 0.0, 1.0])) == pytest.approx(2)


@pytest.mark.parametrize(
    ("ra", "text"), [(0.0, "00h00m"), (345.2, "23h01m"), (359.99, "00h00m"), (None, "–")]
)
def test_hours_and_minutes(ra, text):
    assert pages.hms(ra) == text


def test_flux_in_words():
    assert [pages.mjy(v) for v in (0.00041234, 1.5, None, float("nan"))] == [
        "0.412",
        "1500",
        "–",
        "–",
    ]


@pytest.mark.parametrize("name", ["workflow", "night", "candidates"])
def test_captions_of_the_workflow_report_are_valid(name):
    import docutils.core
    import jinja2

    folder = REPO / "workflow" / "report"
    job = SimpleNamespace(
        config={"incoming": "in", "results": "out"}, wildcards=SimpleNamespace(night="2026-01-25")
    )
    template = jinja2.Template(
        (folder / f"{name}.rst").read_text(), undefined=jinja2.StrictUndefined
    )
    text = template.render(snakemake=job)
    said = io.StringIO()
    docutils.core.publish_string(text, settings_overrides={"warning_stream": said})
    assert said.getvalue() == ""
    words = {"night": "gaps and failures", "workflow": "``in``", "candidates": "eta"}
    assert words[name] in text


def blank_night(fake, tmp_path):
    """Return a copy of a night in which everything is flagged and no calibration solved."""
    from astropy.io import fits

    night = fake.nights[0]
    copy = tmp_path / "nights" / night
    shutil.copytree(fake.layout.night(night), copy)
    for image in (*copy.glob("groups/*/*.image.fits"), copy / "mosaic.fits"):
        with fits.open(image, mode="update") as hdus:
            hdus[0].data[:] = np.nan
    for card in (*copy.glob("groups/*/*.image.fits.json"), copy / "mosaic.fits.json"):
        content = json.loads(card.read_text())
        content |= {"verdict": "fail", "reasons": ["every visibility is flagged"]}
        content["qa"] = example(FIGURES[content["step"]]).plain()
        card.write_text(json.dumps(content))
    for table in copy.glob("groups/*/*.?cal"):
        shutil.rmtree(table)
        table.mkdir()
        (table / "NO_SOLUTION").write_text("no solution\n")
    for table in copy.rglob("*photometry.csv"):
        rows = table.read_text().splitlines()[:1]
        table.write_text("\n".join(rows) + "\n")
    (copy / "qa.json").unlink()
    return copy


def test_a_night_of_blank_images_and_failed_calibration_has_a_page(fake, tmp_path):
    night = blank_night(fake, tmp_path)
    text = night_page.build_night(night)
    assert 'class="verdict failed"' in text
    assert "none of 9 tiles gave a usable image" in text
    (table,) = night.glob("groups/*/*.bcal")
    assert ".bcal could not be drawn" in tile_page.build_calibration(table.parent)
    assert "every visibility is flagged" in text


@pytest.mark.skipif(browser.chromium() is None, reason="no chromium")
@pytest.mark.parametrize("name", ["faults", "blank"])
def test_pages_of_bad_nights_look_like_pages(fake, page, tmp_path, name):
    """No message on the console; sorting every column works; the picture has text and colour."""
    from matplotlib.image import imread

    if name == "blank":
        page = tmp_path / "blank.html"
        page.write_text(night_page.build_night(blank_night(fake, tmp_path)))
    dom, console = browser.dom(
        page,
        """
        const heads = [...document.querySelectorAll("#tile-table thead th")];
        const rows = () => document.querySelectorAll("#tile-table tbody tr").length;
        const before = rows();
        heads.forEach((head) => { head.click(); head.click(); });
        document.body.dataset.rows = `${before} ${rows()}`;
        """,
    )
    assert console == []
    before, after = re.search(r'data-rows="(\d+) (\d+)"', dom).groups()
    assert before == after and int(before) >= 9
    picture = imread(browser.screenshot(page, f"night-{name}", tmp_path))[..., :3]
    assert picture.shape == (3000, 1200, 3)
    shown = picture.reshape(-1, 3)
    assert (shown.mean(axis=1) < 0.4).mean() > 0.003  # text and figures
    assert (np.ptp(shown, axis=1) > 0.2).mean() > 0.001  # the colours of verdicts


@pytest.mark.skipif(browser.chromium() is None, reason="no chromium")
@pytest.mark.parametrize("kind", ["html", "solutions.html"])
def test_pages_of_tiles_and_calibrations_look_like_pages(fake, tmp_path, kind):
    from matplotlib.image import imread

    group = fake.groups[fake.nights[1]][0]
    page = fake.layout.group(group, kind)
    text = page.read_text()
    assert not re.findall(r"""src=["'](?!data:)""", text)
    back = re.search(r'href="([^"#]*)#', text)[1]
    assert (page.parent / back).resolve() == (
        fake.layout.night(fake.nights[1], "report.html").resolve()
    )
    dom, console = browser.dom(
        page,
        """
        document.querySelector("img.zoom").click();
        document.body.dataset.boxes = document.querySelectorAll(".lightbox").length;
        """,
    )
    assert console == [] and 'data-boxes="1"' in dom
    name = "tile" if kind == "html" else "calibration"
    picture = imread(browser.screenshot(page, name, tmp_path))[..., :3]
    assert (picture.reshape(-1, 3).mean(axis=1) < 0.4).mean() > 0.003
