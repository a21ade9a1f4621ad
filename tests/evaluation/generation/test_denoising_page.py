"""The page of a generation in a real browser, headless and without a network."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation.denoising_frames import FrameStreamer, TokenText
from hf_difflm.evaluation.generation.denoising_page import MOST_FRAMES, FrameRecorder, write_denoising_page
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.runs.journal.tables import printable

BYTES = load_tokenizer("bytes")
HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\">"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def written(tiny_denoiser, tmp_path):
    """``written(prompts, **options)``: the texts and the page of their generation."""

    def write(prompts, **options):
        recorder = FrameRecorder()
        samples = generate_samples(
            tiny_denoiser(),
            BYTES,
            prompts,
            GenerationOptions(**options),
            watch=lambda start: FrameStreamer(start, recorder),
        )
        facts = {"seed": 0, "note": HOSTILE}
        return samples, write_denoising_page(
            recorder, TokenText(BYTES), tmp_path / "page.html", title=f"Generation {HOSTILE}", facts=facts
        )

    return write


@pytest.fixture
def opened():
    """``opened(path)`` shows a page; anything it complains about or asks for fails the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    complaints = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])

        def show(path, **options):
            page = browser.new_page(**{"viewport": {"width": 1000, "height": 800}, **options})
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda asked: None if asked.url.startswith("file:") else complaints.append(asked.url))
            page.goto(path.as_uri())
            return page

        yield show
        browser.close()
    assert complaints == []


def _texts(page):
    """What the page shows of each text; control characters stand there as escapes."""
    return page.locator(".canvas").evaluate_all("found => found.map(canvas => canvas.textContent)")


def _go_to(page, place):
    act = "(slider, place) => { slider.value = place; slider.dispatchEvent(new Event('input')); }"
    page.locator("#frame").evaluate(act, place)


def test_slider_and_play_go_from_masks_to_the_text_and_hostile_prompts_are_text(written, opened):
    samples, path = written([HOSTILE, "a[MASK]{4}b"], max_new_tokens=8, max_denoising_steps=8)
    results = [printable(sample.context + sample.text) for sample in samples]
    page = opened(path)
    assert _texts(page) == results
    assert page.locator("#where").inner_text() == "result"
    _go_to(page, 0)
    assert _texts(page) == [HOSTILE + "▒" * 8, "a" + "▒" * 4 + "b" + "▒" * 8]
    assert page.locator("#count-1").inner_text() == "0 of 12 tokens"
    page.select_option("#speed", "60")
    page.click("#play")
    page.wait_for_function("() => document.getElementById('where').textContent === 'result'", timeout=60_000)
    assert _texts(page) == results
    assert page.locator("#play").inner_text() == "play"
    assert page.locator("img").count() == 0
    assert page.title() == f"Generation {HOSTILE}"


def test_without_scripts_the_results_are_there_and_a_phone_is_wide_enough(written, opened):
    samples, path = written(["To be"], max_new_tokens=100, max_denoising_steps=8, block_length=30)
    assert "&lt;/script&gt;" in path.read_text(encoding="utf-8")
    page = opened(path, viewport={"width": 390, "height": 800}, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(samples) == 1


def test_a_long_generation_is_thinned_out_with_its_first_and_last_draft(written):
    options = {"sampler": "first_hitting", "max_denoising_steps": 9999, "block_length": 32}
    _, path = written(["a"], max_new_tokens=MOST_FRAMES + 120, **options)
    data = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"))
    (sample,) = json.loads(data[1])
    assert MOST_FRAMES // 2 < len(sample["frames"]) <= MOST_FRAMES + 1
    assert sample["frames"][0]["done"] == 0
    assert sample["frames"][-1]["final"]


def test_a_page_that_cannot_be_written_is_a_sentence(written, tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match="name another --html"):
        written(["a"], max_new_tokens=2)
