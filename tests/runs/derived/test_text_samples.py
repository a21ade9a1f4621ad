"""Samples over time as text and in the page: sorted by prompt and mode, judged, and harmless."""

from __future__ import annotations

import json
import re

import pytest
import typer
from made_runs import make_run, write_run
from typer.testing import CliRunner

from hf_difflm.commands.run_samples import samples as samples_command
from hf_difflm.errors import UserError
from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.dashboard.samples import samples_table
from hf_difflm.runs.derived.sample_groups import quality_line, sample_groups
from hf_difflm.runs.derived.text_samples import CHARACTERS, samples_data, samples_text
from hf_difflm.runs.journal.schema import SampleRecord
from hf_difflm.runs.journal.strict_json import dumps
from hf_difflm.runs.pages.html import write_html_report

HOSTILE = [
    "$x_1$ _a_ [bold]b[/bold] {c}",
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "\x1b[2J\x1b]0;title\x07\x9b31m\r\b",
    "\ud800 lone \udcff",
    "y" * 10_000,
    "\u202eright to left\u2028 line\x00",
    "",
]


def _sample(step, prompt="The", text="text", mode=None, **extra):
    return SampleRecord(iter=step, prompt=prompt, text=text, extra=({"mode": mode} if mode else {}) | extra)


def _both_modes(steps=(10, 20)):
    return [
        _sample(step, prompt, f"{mode} {prompt}{step}", mode)
        for step in steps
        for mode in ("greedy", "sampled")
        for prompt in ("", "P")
    ]


def test_groups_keep_prompts_together_and_modes_and_repeated_answers_apart():
    run = make_run(samples=[*_both_modes(), _sample(20, "P", "again", "greedy")])
    groups = sample_groups([run])
    assert [(g.prompt, g.mode, g.place) for g in groups] == [
        ("", "sampled", 0),
        ("", "greedy", 0),
        ("P", "sampled", 0),
        ("P", "greedy", 0),
        ("P", "greedy", 1),
    ]
    assert {step: {place: s.text for place, s in at.items()} for step, at in groups[3].by_step.items()} == {
        10: {0: "greedy P10"},
        20: {0: "greedy P20"},
    }
    assert [g.prompt for g in sample_groups([run], "P")] == ["P"] * 3


def test_the_text_has_a_block_for_each_prompt_and_mode_and_the_steps_in_order():
    text = samples_text(make_run(samples=_both_modes()), 80)
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "=== no prompt (sampled)",
        "=== no prompt (greedy)",
        "=== prompt 'P' (sampled)",
        "=== prompt 'P' (greedy)",
    ]
    assert blocks[3].splitlines()[1:] == ["step 10", "  greedy P10", "step 20", "  greedy P20"]
    assert samples_text(make_run(samples=_both_modes()), 80, "P") == "\n\n".join(blocks[2:])


def test_quality_is_one_line_and_a_perplexity_is_never_told_without_its_entropy():
    numbers = {"length": 100, "distinct_1": 0.5, "distinct_2": 0.75, "distinct_3": None, "longest_run": 3}
    numbers |= {"repeated_4": 0.25, "unigram_entropy": 3.217, "top_share": 0.125}
    told = "100 tokens, entropy 3.22 nats, distinct-1/2/3 0.50 / 0.75 / -, "
    told += "repeated 4-grams 25 %, longest run 3, top token 12 %"
    assert quality_line(numbers) == told
    judged = numbers | {"reference_perplexity": 12.345, "reference_entropy": 3.1}
    assert quality_line(judged) == told + ", reference perplexity 12.35 at entropy 3.10 nats"
    assert "perplexity" not in quality_line(numbers | {"reference_perplexity": 12.3})
    assert "perplexity" not in quality_line(numbers | {"reference_perplexity": 12.3, "reference_entropy": None})
    assert quality_line({"length": "<b>", "longest_run": None, "top_share": True, "mode": "greedy"}) == ""


def test_long_texts_are_cut_unless_asked_for_and_lines_are_folded():
    run = make_run(samples=[_sample(10, text="word " * 2000)])
    cut, whole = samples_text(run, 60), samples_text(run, 60, whole=True)
    assert cut.endswith(f"… {10_000 - CHARACTERS:,} more characters")
    assert whole.count("word") == 2000
    assert max(map(len, whole.splitlines())) <= 60


def test_a_run_without_samples_and_a_prompt_that_was_not_asked_are_sentences():
    with pytest.raises(UserError, match="has no samples"):
        samples_text(make_run(samples=[]), 80)
    with pytest.raises(UserError, match="no samples after 'Q'; its prompts are '', 'P'"):
        samples_data(make_run(samples=_both_modes()), "Q")


def test_hostile_text_is_shown_and_not_obeyed_in_the_terminal():
    run = make_run(samples=[_sample(10, prompt, text, text) for prompt in HOSTILE for text in HOSTILE])
    text = samples_text(run, 80, whole=True)
    assert all(char == "\n" or char.isprintable() for char in text)
    assert "\\x1b[2J" in text
    text.encode("utf-8")


def test_hostile_text_is_text_in_the_page_whose_quality_stands_below_it(tmp_path):
    made = [_sample(10, prompt, text, text, length=3) for prompt in HOSTILE for text in HOSTILE]
    source = write_html_report([make_run(samples=made)], tmp_path / "page.html").read_text(encoding="utf-8")
    part = source.split('<section id="samples">')[1].split("</section>")[0]
    tags = set(re.findall(r"<(\w+)", part))
    assert tags <= {
        "h2",
        "details",
        "summary",
        "span",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "small",
        "p",
    }
    assert "&lt;script&gt;" in part
    assert all(char in "\n\t" or char.isprintable() for char in part)
    assert '<small class="soft">3 tokens</small>' in part


def test_a_text_of_white_space_alone_is_said_and_not_shown(tmp_path):
    run = make_run(samples=[_sample(10, text=" " * 95), _sample(10, "P", "\n \n"), _sample(10, "Q", "")])
    text = samples_text(run, 80)
    assert "  (95 spaces)" in text
    assert "  (2 line breaks, 1 space)" in text
    assert "  (nothing)" in text
    page = write_html_report([run], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "(95 spaces)" in page
    assert "(95 spaces)" in str(samples_table(run.samples))


def test_the_page_keeps_modes_apart_with_runs_side_by_side(tmp_path):
    runs = [make_run("a", samples=_both_modes()), make_run("b", samples=_both_modes((20,)))]
    source = write_html_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    part = source.split('<section id="samples">')[1].split("</section>")[0]
    tables = part.split("<details")[1:]
    assert len(tables) == 4
    assert 'class="text">P</span> <span class="soft">greedy</span>' in tables[3]
    assert re.findall(r"(?:greedy|sampled) P\d+", tables[3]) == ["greedy P20", "greedy P20", "greedy P10"]
    assert part.count("<details open>") == 1


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(samples_command)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_text_and_its_json_is_the_log(command, tmp_path):
    folder = write_run(tmp_path / "run", ending="")
    journal = Journal(folder / "journal.jsonl")
    journal.open()
    for place, text in enumerate(HOSTILE):
        journal.append(_sample(20 + place, "", text, "greedy", top_share=0.5))
    journal.close()
    assert "=== prompt 'The'" in command(folder).output
    assert "top token 50 %" in command(folder, "--prompt", "").output
    found = json.loads(command(folder, "--json").stdout)
    logged = load_run(folder).samples
    assert [(row["iter"], row["prompt"], row["text"]) for row in found] == [(s.iter, s.prompt, s.text) for s in logged]
    assert [row["text"] for row in found][2:] == HOSTILE
    assert found[-1] == {"iter": 26, "prompt": "", "mode": "greedy", "text": "", "top_share": 0.5}
    assert dumps(found)
