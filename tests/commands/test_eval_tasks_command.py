"""``eval --dataset`` and ``eval --tasks``: which flags go together, and what is said where they do not."""

from __future__ import annotations

import json

import pytest

from hf_difflm.runs import load_run


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--limit", "3"], "--limit is for tasks of lm-evaluation-harness; name some with --tasks"),
        (["--draws", "0", "--tasks", "x"], "draws must be a positive integer"),
        (["--tasks", "x", "--dataset", "markov"], "--dataset has no use with --tasks"),
        (["--tasks", "x", "--split", "test"], "--split has no use with --tasks"),
        (["--tasks", "x", "--generation"], "--generation has no use with --tasks"),
        (["--detokenizer", "ptbb"], "did you mean 'ptb'"),
        (["--detokenizer", "lm1b"], "add --dataset"),
        (["--packing", "mdml"], "did you mean 'mdlm'"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(hf, trained, flags, sentence):
    result = hf("eval", trained, *flags)
    assert result.code == 2
    assert result.out == ""
    assert sentence in result.err
    assert result.err.count("error:") == 1


def test_a_file_is_evaluated_whole_and_leaves_a_measurement_beside_the_evaluations(hf, trained, tmp_path):
    rows = [{"sentence": f"the dog 's tail , {i} times"} for i in range(30)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = load_run(trained)
    flags = ["--dataset", "mine.jsonl", "--text-column", "sentence", "--detokenizer", "lm1b", "--packing", "mdlm"]
    result = hf("eval", trained, *flags, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["packing"] == "mdlm"
    conditions = {"protocol": "P0", "draws": found["eval_replicates"], "bos_token": "[BOS]", "chat_template": False}
    assert {name: found[name] for name in conditions} == conditions
    assert found["eval_ppl_stderr"] == pytest.approx(found["eval_ppl"] * found["eval_nll_stderr"])
    assert found["eval_bpb_stderr"] / found["eval_bpb"] == pytest.approx(found["eval_nll_stderr"] / found["eval_nll"])
    assert "30 documents" in result.err
    after = load_run(trained)
    assert after.measurements[-1].source == "zero_shot"
    assert after.measurements[-1].metrics["mine.jsonl/nll"] == pytest.approx(found["eval_nll"], rel=1e-6)
    assert {name: after.measurements[-1].metrics[f"mine.jsonl/{name}"] for name in conditions} == conditions
    assert (
        f"mine.jsonl/nll {found['eval_nll']:.4g} ± {found['eval_nll_stderr']:.2g}, " in hf("runs", "show", trained).out
    )
    assert after.best_evaluation.nll == before.best_evaluation.nll
    assert (after.status, after.end_time) == (before.status, before.end_time)


def test_the_help_names_the_evaluation_sets_and_the_tasks(hf):
    out = " ".join(hf("eval", "--help").out.replace("│", " ").split())
    assert "ag_news, arxiv, lambada, lm1b, ptb, pubmed, wikitext" in out
    assert "--tasks" in out
