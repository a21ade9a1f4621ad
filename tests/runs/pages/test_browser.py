"""The page in a real browser, headless and without a network."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
from made_runs import make_run

from hf_difflm.runs.dashboard.importance_map import importance_record
from hf_difflm.runs.journal.schema import SampleRecord
from hf_difflm.runs.pages.html import write_html_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\">"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """``opened(runs)`` shows their page; anything it complains about or asks for fails the test."""
    contexts, complaints = [], []

    def show(runs, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(request.url))
        page.goto(write_html_report(runs, tmp_path / "page.html").as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []


def _pair():
    return [make_run("demo-mdlm", 2000), make_run("demo-ar", 2000, objective="ar", bound="exact", final=1.5)]


def _canvas(page, chart=0):
    """The pixels of a chart, as a fingerprint."""
    return page.locator(".plot canvas").nth(chart).evaluate("canvas => canvas.toDataURL()")


def _range(page):
    """What the horizontal axis of the first chart tells at its two edges, through the tooltip."""
    box = page.locator(".plot .u-over").first.bounding_box()
    found = []
    for x in (box["x"] + 1, box["x"] + box["width"] - 2):
        page.mouse.move(x, box["y"] + 40)
        found.append(page.locator(".tip:not([hidden]) b").first.inner_text().split(": ")[1])
    return found


def test_every_chart_is_drawn_and_hovering_tells_each_run_with_its_error(opened):
    page = opened(_pair())
    titles = page.locator(".chart h3").all_inner_texts()
    assert titles[:2] == ["Training loss (nats/token)", "Evaluation nll (nats/token)"]
    assert page.locator(".plot canvas").count() == len(titles)
    box = page.locator(".plot .u-over").nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 40)
    tip = page.locator(".tip:not([hidden])")
    assert tip.count() == 1
    assert tip.inner_text().split("\n") == [
        "optimiser step: 2000",
        "demo-mdlm",
        "2.001 ± 0.01",
        "demo-ar",
        "1.501 ± 0.01",
    ]


def test_dragging_zooms_all_charts_and_a_double_click_shows_everything_again(opened):
    page = opened(_pair())
    whole, other = _range(page), _canvas(page, 1)
    box = page.locator(".plot .u-over").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    page.mouse.up()
    left, right = (float(value) for value in _range(page))
    assert 450 < left < 550
    assert 950 < right < 1050
    assert _canvas(page, 1) != other
    page.mouse.dblclick(box["x"] + box["width"] / 3, box["y"] + 60)
    assert _range(page) == whole


def test_the_buttons_zoom_without_a_mouse(opened):
    page = opened(_pair())
    whole = _range(page)
    page.click("#zoom-in")
    assert float(_range(page)[0]) > 900
    page.click("#zoom-out")
    page.click("#zoom-out")
    assert _range(page) == whole
    page.click("#zoom-in")
    page.click("#zoom-reset")
    assert _range(page) == whole


def test_smoothing_log_axes_other_axes_and_hiding_a_run_change_what_is_drawn(opened):
    page = opened(_pair())
    seen = {_canvas(page)}
    assert page.locator("#window").inner_text() == "mean of 100 steps"
    page.locator("#smoothing").fill("0")
    assert page.locator("#window").inner_text() == "every step"
    for act in (
        lambda: None,
        lambda: page.check("#log-y"),
        lambda: page.check("#log-x"),
        lambda: page.select_option("#x-axis", "tokens"),
        lambda: page.locator("#runs button").first.click(),
    ):
        act()
        seen.add(_canvas(page))
    assert len(seen) == 6
    assert page.locator("#runs button").first.get_attribute("aria-pressed") == "false"
    page.uncheck("#log-x")
    assert 198 < float(_range(page)[1].removesuffix("k")) <= 200
    assert "demo-mdlm" not in page.locator(".tip:not([hidden])").inner_text()


def test_hostile_names_and_prompts_are_shown_as_text_and_run_nothing(opened):
    samples = [SampleRecord(iter=100, prompt=HOSTILE, text=HOSTILE)]
    page = opened([make_run(HOSTILE, samples=samples, note=HOSTILE, objective=HOSTILE), make_run("b", samples=samples)])
    box = page.locator(".plot .u-over").first.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 40)
    assert HOSTILE in page.locator("#samples").inner_text()
    assert page.locator("#runs button").first.inner_text() == HOSTILE
    assert page.locator("img").count() == 0
    assert page.title() == "Comparison of 2 runs"


@pytest.mark.parametrize("runs", [1, 12])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_nothing_runs_out_of_a_phone_a_desk_or_a_projector(opened, runs, width):
    made = [make_run(f"a-rather-long-name-of-a-run-{place}", 300, width=place) for place in range(runs)]
    page = opened(made, viewport={"width": width, "height": 800}, is_mobile=width < 600, has_touch=width < 600)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [box.bounding_box() for box in page.locator(".plot canvas").all()]
    assert all(box["x"] + box["width"] <= width for box in boxes)
    for one, other in itertools.pairwise(boxes):
        apart = one["x"] + one["width"] <= other["x"] or one["y"] + one["height"] <= other["y"]
        assert apart, "two charts overlap"


def test_dark_mode_is_dark_and_its_curves_have_other_colours(opened):
    light, dark = opened(_pair()), opened(_pair(), color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert light.evaluate(background) == "rgb(255, 255, 255)"
    assert dark.evaluate(background) == "rgb(20, 23, 27)"
    assert _canvas(light) != _canvas(dark)
    light.emulate_media(color_scheme="dark")  # changed while the page is open
    drawn = "wanted => document.querySelector('.plot canvas').toDataURL() === wanted"
    light.wait_for_function(drawn, arg=_canvas(dark), timeout=5000)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_shortest_runs_have_a_page_without_errors(opened, steps):
    page = opened([make_run("short", steps, evaluations=min(steps, 1), samples=[])])
    page.check("#log-x")
    page.click("#zoom-in")
    page.click("#zoom-out")
    assert page.locator("h1").inner_text() == "short"


def _adaptive(name="adaptive", bounds=(600, 1200)):
    steps = np.arange(2000)
    stage = 1.0 + (steps >= bounds[0]) + (steps >= bounds[1])
    run = make_run(name, 2000, columns={"curriculum_stage": stage})
    run.measurements.append(importance_record(2000, [HOSTILE, "b"], [0.2, 0.7]))
    return run


def test_the_stages_are_drawn_on_the_loss_alone_and_go_with_their_run(opened):
    page, plain = opened([_adaptive()]), opened([make_run("adaptive", 2000)])
    assert _canvas(page) != _canvas(plain)
    assert _canvas(page, 1) == _canvas(plain, 1)
    for each in (page, plain):
        each.locator("#runs button").click()
    assert _canvas(page) == _canvas(plain)  # a hidden run has no marks


def test_stages_on_every_axis_and_zoom_are_no_complaint(opened):
    page = opened([_adaptive(), _adaptive("other", (100, 120)), make_run("plain", 300)])
    for axis in ("epoch", "tokens", "flops", "time", "step"):
        page.select_option("#x-axis", axis)
        page.click("#zoom-in")
        page.check("#log-x")
        page.uncheck("#log-x")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_stand_in_black_on_the_shade_of_their_importance(opened, scheme):
    page = opened([_adaptive()], color_scheme=scheme)
    tokens = page.locator("#importance .text span")
    assert tokens.all_text_contents() == [HOSTILE, "b"]
    shown = [
        tokens.nth(place).evaluate("token => [getComputedStyle(token).color, getComputedStyle(token).backgroundColor]")
        for place in range(2)
    ]
    assert shown == [["rgb(0, 0, 0)", "rgb(255, 255, 255)"], ["rgb(0, 0, 0)", "rgb(245, 143, 63)"]]
    assert page.title() == "adaptive"
