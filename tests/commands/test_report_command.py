"""``report``: a page from run logs alone."""

from __future__ import annotations

from hf_difflm.runs import load_run


def test_the_page_holds_the_logged_numbers_and_is_the_same_when_written_again(hf, trained, trained_ar, tmp_path):
    command = ["report", trained.name, trained_ar.name, "--output", "docs/results.md"]
    first = hf(*command)
    assert first.code == 0, first.err
    assert first.out.split() == ["docs/results.md", "docs/results-curves.png", "docs/results-others.png"]
    page = (tmp_path / "docs" / "results.md").read_bytes()
    picture = (tmp_path / "docs" / "results-curves.png").read_bytes()
    for run in (trained, trained_ar):
        assert f"{load_run(run).best_evaluation.nll:.4f}" in page.decode()
    assert hf(*command).code == 0
    assert (tmp_path / "docs" / "results.md").read_bytes() == page
    assert (tmp_path / "docs" / "results-curves.png").read_bytes() == picture


def test_no_absolute_path_gets_into_the_page(hf, trained, tmp_path):
    assert hf("report", trained, "--output", tmp_path / "page.md").code == 0
    assert str(tmp_path) not in (tmp_path / "page.md").read_text()
