"""``audit``: verdicts as exit codes, JSON alone on stdout, and what does not go together."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from hf_difflm.evaluation.audit.built_in import BUILT_IN

DOCS = Path(__file__).parents[2] / "docs"


def test_a_bound_exits_with_zero_and_ends_in_the_verdict(hf):
    result = hf("audit", "p0", "--length", "3", "--denoisers", "3")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == "bound: no counterexample in 6 denoisers at V^L = 8"
    assert result.out.splitlines()[0].startswith("p0: uniform masking, exact counts")


def test_no_bound_exits_with_one_and_json_is_alone_on_stdout(hf):
    result = hf("audit", "sum_over_scored", "--json", "--denoisers", "3", "--vocabulary", "3", "--length", "2")
    assert result.code == 1, result.err
    found = json.loads(result.out)
    assert found["verdict"] == "not a bound"
    assert re.fullmatch(r"not a bound: sums to 1\.\d\d", found["sentence"])
    assert (found["vocabulary"], found["length"], found["sequences"]) == (3, 2, 9)
    assert len(found["kraft_sums"]["optimum"]) == len(found["kraft_sums"]["random"]) == 3
    assert max(one["value"] for one in found["kraft_sums"]["optimum"]) > 1
    assert found["entropy_test"]["excess"] < 0
    assert found["sampler"]["least"] == pytest.approx(1)


def test_a_run_is_audited_on_tokens_of_its_own(hf, trained):
    result = hf("audit", trained, "--alphabet", "ab", "--length", "3", "--use-cpu")
    assert result.code == 0, result.err
    assert "eval_nll of a masked diffusion model (p0)" in result.out
    assert result.out.splitlines()[-1] == "bound: no counterexample in 1 denoiser at V^L = 8"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["p9"], "did you mean 'p3'"),
        (["p0", "--alphabet", "ab"], "--alphabet is not for p0"),
        (["p0", "--length", "17"], "more than the 65,536 that are enumerated"),
        (["p0", "--vocabulary", "1"], "--vocabulary"),
        (["no_such_module:loss"], "cannot be imported"),
    ],
)
def test_bad_input_is_one_sentence_and_exits_with_two(hf, args, said):
    result = hf("audit", *args)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert len(result.err.splitlines()) == 1


def test_a_run_takes_its_vocabulary_from_its_alphabet(hf, trained):
    assert "--vocabulary is not for" in hf("audit", trained, "--vocabulary", "3").err
    assert "exclude each other" in hf("audit", trained, "--alphabet", "ab", "--most-frequent", "3").err


def test_the_help_and_the_page_name_every_subject(hf):
    shown = " ".join(hf("audit", "--help").out.split())
    page = (DOCS / "audit.md").read_text(encoding="utf-8")
    for name in BUILT_IN:
        assert re.search(rf"\b{name}\b", shown), name
        assert f"`{name}`" in page, name


def test_the_outputs_on_the_page_are_those_of_its_commands():
    written = (DOCS / "audit.md").read_text(encoding="utf-8")
    found = runpy.run_path(str(DOCS / "write_audit.py"))["with_outputs"](written)
    assert found.count("$ hf-difflm audit") == 4
    assert found.splitlines() == written.splitlines()


@pytest.mark.slow
def test_the_table_on_the_page_is_what_was_found():
    written = (DOCS / "audit.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(DOCS / "write_audit.py"))["page"](written).splitlines() == written.splitlines()
