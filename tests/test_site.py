"""The site is built without a warning, every page is two clicks from the first, and its search finds, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
QUESTIONS = {
    "how do I log gradient norms in my own Trainer": ("callbacks.html", "GradientNormCallback"),
    "why is my loss not comparable with the AR loss": ("concepts.html", "not comparable"),
    "how do I resume": ("scaling.html", "--resume"),
    "how do I sample faster": ("generation.html", "steps"),
    "how do I bring LLaDA": ("released-models.html", "convert"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (pip install '.[site]')")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]  # strict: a link that leads nowhere is an error
    assert "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


def linked(page: Path, site: Path) -> set[Path]:
    """The pages of the site that a page links to."""
    found = set()
    for link in re.findall(r'<a\b[^>]*?\bhref="([^"#]+)', page.read_text(encoding="utf-8")):
        target = (page.parent / unquote(link)).resolve()
        if "://" not in link and target.suffix == ".html" and target.is_relative_to(site):
            assert target.is_file(), f"{page.name} links to {link}, which is not there"
            found.add(target)
    return found


def test_every_page_is_within_two_clicks_of_the_first(site):
    near = linked(site / "index.html", site)
    near |= {page for first in near for page in linked(first, site)}
    pages = {page for page in site.rglob("*.html") if page.name != "404.html"}
    assert not pages - near, sorted(str(page.relative_to(site)) for page in pages - near)


def test_every_document_is_a_page(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file(), page


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)\b[^>]*(?:src|href)="https?://[^"]*"', text), page.name


def test_docstrings_are_pages_of_the_reference(site):
    text = (site / "api/training.html").read_text(encoding="utf-8")
    assert 'id="hf_difflm.training.trainer.DiffusionTrainer"' in text
    assert ":class:" not in text
    assert "hf_difflm.callbacks.gradients.GradientNormCallback" in (site / "api/callbacks.html").read_text(
        encoding="utf-8"
    )


@pytest.fixture
def page():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1300, "height": 900})
        browser.close()


def test_a_reader_finds_answers_by_two_clicks_and_by_search(site, page):
    failed: list[str] = []
    # What a page still reads when it is left is given up.
    page.on("requestfailed", lambda request: failed.append(request.url) if "ABORTED" not in request.failure else None)
    page.on("pageerror", lambda error: failed.append(str(error)))
    for question, (answer, word) in QUESTIONS.items():
        page.goto((site / "index.html").as_uri())
        page.click("nav.md-nav--primary >> text=How do I ...?")
        page.click(f'article a[href^="{answer}"] >> nth=0')
        assert page.url.partition("#")[0].endswith(answer), question
        assert word in page.inner_text("article"), question
    page.goto((site / "index.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("gradient norm")
    page.wait_for_selector(".md-search-result__link", timeout=20_000)
    assert "callbacks.html" in " ".join(
        link.get_attribute("href") or "" for link in page.locator(".md-search-result__link").all()
    )
    assert not failed
