"""The importance of a text's tokens on a page, and the stages of the curriculum for its curves."""

from __future__ import annotations

import re

import numpy as np
from made_runs import make_run

from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.dashboard.importance_map import importance_record
from hf_difflm.runs.pages.curves import page_data
from hf_difflm.runs.pages.html import write_html_report
from hf_difflm.runs.pages.importance import SHADES, importance_section

HOSTILE = ["</div><script>alert(1)</script>", '" onclick="x', "&amp;", "\x1b[31m", "\ud800", "\u202e", "\n"]


def adaptive_run(tokens=("a", "b"), values=(0.2, 0.7), name="adaptive"):
    run = make_run(name, 30, columns={"curriculum_stage": np.repeat([1.0, 2.0, 3.0], 10)})
    run.measurements.append(importance_record(10, list(tokens), [0.5] * len(tokens)))
    run.measurements.append(importance_record(30, list(tokens), list(values)))
    return run


def test_each_token_has_the_shade_and_the_number_of_its_importance():
    section = importance_section([adaptive_run()], ["adaptive"])
    assert re.findall(r'<span class="s(\d)" title="([\d.]+)">(\w)</span>', section) == [
        ("0", "0.200", "a"),
        (str(SHADES - 1), "0.700", "b"),
        (str(int(0.3 / 0.5 * SHADES)), "0.500", "a"),
        (str(int(0.3 / 0.5 * SHADES)), "0.500", "b"),
    ]
    assert section.index("step 30") < section.index("step 10")
    assert "importance 0.2" in section
    assert "style=" not in section  # which the page's policy forbids


def test_hostile_tokens_are_text(tmp_path):
    run = adaptive_run(HOSTILE, np.linspace(0.1, 0.9, len(HOSTILE)))
    page = write_html_report([run], tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert 'onclick="x' not in page
    assert "&lt;/div&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not {"\x1b", "\u202e"} & set(page)
    assert '<a href="#importance">' in page


def test_a_page_without_importance_has_no_such_section(tmp_path):
    run = make_run("mdlm", 30)
    assert importance_section([run], ["mdlm"]) == ""
    page = write_html_report([run], tmp_path / "page.html").read_text()
    assert 'id="importance"' not in page


def test_the_stages_go_with_the_curve_of_the_loss_alone():
    runs, names = [adaptive_run(), make_run("mdlm", 30)], ["adaptive", "mdlm"]
    data = page_data(runs, names, seed_groups(runs, names))
    assert [run["stages"] for run in data["runs"]] == [[[1, "easy"], [11, "medium"], [21, "hard"]], []]
    assert [chart["title"] for chart in data["charts"] if chart.get("stages")] == ["Training loss"]
