"""The page as a file: whole, small, escaped, and asking for nothing from anywhere."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import make_run, million_steps

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.journal.schema import SampleRecord
from hf_difflm.runs.pages.curves import page_data
from hf_difflm.runs.pages.html import write_html_report

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"&<!--"


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: its elements, its text, and the content of its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.text += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


def _page(runs, path, **options):
    return Page(write_html_report(runs, path, **options).read_text(encoding="utf-8"))


def _data(runs):
    names = [run.name for run in runs]
    return page_data(runs, names, seed_groups(runs, names))


def test_one_run_and_a_comparison_have_all_their_sections(tmp_path):
    one = _page([make_run()], tmp_path / "one.html")
    two = _page([make_run("a"), make_run("b", objective="ar", width=64)], tmp_path / "two.html")
    sections = ["summary", "curves", "samples", "evaluations", "configuration", "commands"]
    assert [given["id"] for tag, given in one.elements if tag == "section"] == sections
    assert [given["id"] for tag, given in two.elements if tag == "section"] == ["summary", "fairness", *sections[1:]]
    assert "width" in two.text.split("Curves")[0]
    assert "1234" not in one.text.split("Curves")[0].replace("1,234", "")
    assert "hf-difflm report somewhere/a somewhere/b --output" in two.text
    assert "hf-difflm train --recipe demo" in two.text


def test_a_fair_pair_is_said_to_be_fair_and_a_log_without_settings_is_not(tmp_path):
    fair = [make_run("a"), make_run("b", objective="ar")]
    assert "differ in their objective only" in _page(fair, tmp_path / "fair.html").text
    silent = dataclasses.replace(fair[1], headers=[dataclasses.replace(fair[1].header, config={})])
    page = _page([fair[0], silent], tmp_path / "silent.html")
    assert "Nothing can be said about b" in page.text
    assert "differ in their objective only" not in page.text


def test_nothing_in_the_page_asks_for_anything_from_anywhere(tmp_path):
    page = _page([make_run("a"), make_run("b")], tmp_path / "page.html")
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
        assert not {"src", "srcset", "data", "action", "background", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    (policy,) = [
        attributes["content"]
        for _, attributes in page.elements
        if "content-security-policy" in (attributes.get("http-equiv") or "").lower()
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_without_its_data_the_page_is_far_below_one_megabyte(tmp_path):
    path = write_html_report([make_run()], tmp_path / "page.html")
    page = Page(path.read_text())
    assert path.stat().st_size - len(page.scripts[0]) < 120_000


def test_twelve_long_runs_stay_small_and_every_curve_has_a_few_thousand_points():
    data = _data([make_run(f"run{place}", 50_000, width=place) for place in range(12)])
    for chart in data["charts"]:
        for curve in chart["curves"]:
            assert len(curve["x"]) == len(curve["y"]) <= 2000
            assert len(curve.get("mean_x", [])) <= 1000
    assert len(json.dumps(data)) < 6e6


def test_the_spike_among_a_million_steps_is_in_the_page():
    curve = _data([million_steps(spike_at=123_456)])["charts"][0]["curves"][0]
    assert curve["x"][int(np.argmax(curve["y"]))] == 123_456
    assert max(curve["y"]) == 40
    assert max(curve["mean_y"]) < 5  # what is smoothed is the mean of all steps, not of the extremes


def test_the_knots_lead_from_steps_to_every_axis():
    data = _data([make_run(steps=1000)])
    knots = data["runs"][0]["knots"]
    assert set(data["axes"]) == set(knots) == {"step", "epoch", "tokens", "flops", "time"}
    assert {len(values) for values in knots.values()} == {len(knots["step"])}
    assert (knots["step"][-1], knots["tokens"][-1], knots["time"][-1]) == (1000, 100_000, 50)
    assert all(values[0] == 0 and (np.diff(values) > 0).all() for values in knots.values())


def test_seeds_of_one_configuration_share_a_colour_and_have_dashes_of_their_own():
    runs = [make_run(f"m{seed}", seed=seed) for seed in (1, 2)] + [make_run("other", batch=1)]
    assert [(run["colour"], run["dash"]) for run in _data(runs)["runs"]] == [(0, 0), (0, 1), (1, 0)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.just(HOSTILE) | st.text("<>&\"'/!-\u2028\u2029\ud800 scriptimg=", max_size=60))
def test_no_text_of_a_run_becomes_anything_but_text(tmp_path, text):
    samples = [SampleRecord(iter=step, prompt=text, text=text) for step in (50, 100)]
    plain = [make_run("x", note="y"), make_run("z", objective="ar", note="w")]
    hostile = [
        make_run(text or "a", samples=samples, note=text, objective=text or None),
        make_run("the other", samples=samples),
    ]
    for run in hostile:
        run.header.metadata["command"] = text
        run.header.metadata["versions"] = {text: text}
    expected = {tag for tag, _ in _page(plain, tmp_path / "plain.html").elements}
    page = _page(hostile, tmp_path / "hostile.html", title=text or "t")
    assert {tag for tag, _ in page.elements} <= expected | {"pre"}
    assert len(page.scripts) == 3
    assert page.data["runs"][1]["name"] == "the other"
    assert not re.search(r"[<>&\u2028\u2029]", page.scripts[0])


def test_no_absolute_path_of_this_machine_gets_into_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = dataclasses.replace(make_run(dataset="/data/private/my.txt"), path=tmp_path / "run" / "journal.jsonl")
    run.header.metadata["command"] = f"python {tmp_path}/cli.py train --dataset /data/private/my.txt"
    text = (write_html_report([run], tmp_path / "page.html")).read_text()
    assert str(tmp_path) not in text
    assert "/data/private" not in text
    assert "my.txt" in text


def test_the_same_prompt_is_side_by_side_and_a_run_sampled_at_other_steps_shows_its_last_text(tmp_path):
    def samples(steps, text):
        return [SampleRecord(iter=step, prompt="P", text=f"{text}{step}") for step in steps]

    first = make_run("a", samples=samples(range(10, 310, 10), "a"))
    second = make_run("b", samples=samples([95, 300], "b"))
    source = write_html_report([first, second], tmp_path / "page.html").read_text()
    part = source.split('id="samples"')[1].split("</section>")[0]
    rows = re.findall(r"<tr><th scope=\"row\" class=\"short\">(\d+)</th>(.*?)</tr>", part)
    assert len(rows) == 12
    assert (rows[0][0], rows[-1][0]) == ("300", "10")
    assert re.findall(r"[ab]\d+", rows[0][1]) == ["a300", "b300"]
    (with_note,) = [row for row in rows if "b95" in row[1]]
    assert "step 95" in with_note[1]


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    page = _page([make_run(steps=0, evaluations=0, samples=[])], tmp_path / "page.html")
    assert page.data["charts"] == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write_html_report([make_run()], tmp_path / "file" / "page.html")


@pytest.mark.borders
def test_of_logs_that_tell_settings_alone_fairness_is_not_claimed(tmp_path):
    logs = Path(__file__).parents[2] / "fixtures" / "foreign_logs"
    runs = [load_run(logs / f"{name}_trainer_state.json") for name in ("transformers", "trl_sft")]
    page = write_html_report(runs, tmp_path / "page.html", names=["a", "b"]).read_text()
    assert "Objective, data and size may differ: the log of a, b does not tell them." in page
    assert "are equal" not in page
