"""Several evaluation sets: each under its name, one of them chooses the best weights, and none is taken for another."""

from __future__ import annotations

import json
import logging

import pytest

from hf_difflm.errors import UserError
from hf_difflm.runs import compare_runs, load_run
from hf_difflm.runs.comparing.units import read_units

pytestmark = pytest.mark.borders


@pytest.fixture
def sets(train_rows):
    return {"code": train_rows(8, seed=2), "wiki": train_rows(4, length=9, seed=1)}


@pytest.mark.parametrize("metric", ["eval_code_nll", "code_nll"])
def test_each_set_is_evaluated_under_its_name_and_one_of_them_chooses_the_best(
    make_diffusion_trainer, sets, tmp_path, metric
):
    trainer = make_diffusion_trainer(
        evaluation=sets, eval_strategy="steps", eval_steps=2, metric_for_best_model=metric, load_best_model_at_end=True,
        save_strategy="steps", save_steps=2,
    )  # fmt: skip
    trainer.train()
    found = {name: [log[name] for log in trainer.state.log_history if name in log] for name in
             ("eval_wiki_nll", "eval_code_nll")}  # fmt: skip
    assert [len(values) for values in found.values()] == [3, 3]
    assert trainer.state.best_metric == min(found["eval_code_nll"])
    assert trainer.evaluate()["eval_code_nll"] == pytest.approx(trainer.state.best_metric)
    units = json.loads((tmp_path / "run" / "best_evaluation.json").read_text())
    assert units["tokens"] == [11] * 8  # of code, though wiki was evaluated after it
    assert sum(units["nll"]) / 88 == pytest.approx(trainer.state.best_metric)


def test_the_first_set_chooses_where_the_metric_is_of_none_and_that_is_said(
    make_diffusion_trainer, sets, tmp_path, caplog
):
    with caplog.at_level(logging.WARNING):
        trainer = make_diffusion_trainer(evaluation=sets, eval_strategy="steps", eval_steps=3)
    assert "best/ is chosen by eval_code_nll, of the first" in caplog.text
    trainer.train()
    assert trainer.state.best_metric == min(
        log["eval_code_nll"] for log in trainer.state.log_history if "eval_code_nll" in log
    )
    assert load_run(tmp_path / "run").config["metric_for_best_model"] == "eval_code_nll"


def test_the_log_has_one_evaluation_a_step_and_the_chosen_set_stands_for_the_run(
    make_diffusion_trainer, sets, train_rows, tmp_path
):
    trainer = make_diffusion_trainer(
        evaluation=sets, eval_strategy="steps", eval_steps=2, metric_for_best_model="eval_wiki_nll"
    )
    trainer.train()
    logged = {name: [log[name] for log in trainer.state.log_history if name in log] for name in
              ("eval_wiki_nll", "eval_code_nll")}  # fmt: skip
    trainer.evaluate(train_rows(3, seed=9))
    run = load_run(tmp_path / "run")
    kept = [record for record in run.evaluations if record.nll is not None]
    assert [record.iter for record in kept] == [2, 4, 6]
    assert [record.nll for record in kept] == logged["eval_wiki_nll"]
    assert [record.number("eval_code_nll") for record in kept] == logged["eval_code_nll"]
    assert run.best_evaluation is min(kept, key=lambda record: record.nll)
    assert run.bound == "nelbo"
    assert read_units(run).tokens.tolist() == [8.0] * 4
    single = make_diffusion_trainer(
        evaluation=sets["wiki"], eval_strategy="steps", eval_steps=2, output_dir=str(tmp_path / "single")
    )
    single.train()
    table = compare_runs([load_run(tmp_path / name) for name in ("run", "single")])
    assert [row.eval_nll for row in table.rows] == [run.best_evaluation.nll] * 2


def test_an_evaluation_of_another_set_is_none_of_the_run(make_diffusion_trainer, train_rows, tmp_path):
    trainer = make_diffusion_trainer(evaluation=train_rows(8, seed=1), eval_strategy="steps", eval_steps=3)
    trainer.train()
    before = load_run(tmp_path / "run").best_evaluation
    other = trainer.evaluate([{"input_ids": [256, 97, 97]}] * 4)
    assert other["eval_nll"] != before.nll
    run = load_run(tmp_path / "run")
    assert (run.best_evaluation.nll, run.final_evaluation.iter) == (before.nll, 6)
    assert len([record for record in run.evaluations if record.nll is not None]) == 2
    assert run.evaluations[-1].number("eval_other_nll") == other["eval_nll"]
    assert trainer.evaluate(metric_key_prefix="late")["late_nll"] == run.final_evaluation.nll


def test_sets_are_called_by_name_or_given_with_one(make_diffusion_trainer, sets, train_rows):
    trainer = make_diffusion_trainer(evaluation=sets)
    both = trainer.evaluate()
    assert trainer.evaluate("wiki")["eval_nll"] == both["eval_wiki_nll"]
    assert trainer.evaluate({"a": sets["wiki"]})["eval_a_nll"] == both["eval_wiki_nll"]
    with pytest.raises(UserError, match="no evaluation set 'wikki'; the evaluation sets are code, wiki"):
        trainer.evaluate("wikki")


@pytest.mark.parametrize(
    ("several", "metric", "what"),
    [
        (False, "eval_wiki_nll", "which no evaluation here will have; take one of eval_nll, eval_ppl, eval_accuracy"),
        (False, "eval_f1", "'eval_f1', which no evaluation here will have"),
        (False, "eval_bpb", "have no num_bytes to count bits per byte of"),
        (False, "native_nll", "which no evaluation here will have"),
        (True, "eval_web_nll", "take one of eval_code_nll, eval_code_ppl, eval_code_accuracy, eval_wiki_nll"),
    ],
)
def test_a_metric_that_no_evaluation_will_have_is_refused_at_once(make_diffusion_trainer, sets, several, metric, what):
    with pytest.raises(UserError, match=what):
        make_diffusion_trainer(
            evaluation=sets if several else sets["wiki"], metric_for_best_model=metric, greater_is_better=False
            if metric == "eval_f1" else None,
        )  # fmt: skip


def test_a_subclass_may_add_metrics(tiny_denoiser, train_rows, tokenizer, tmp_path):
    from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

    class Mine(DiffusionTrainer):
        def evaluate(self, *args, **kwargs):
            return {**super().evaluate(*args, **kwargs), "eval_f1": float(self.state.global_step == 2)}

    args = DiffusionTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=4, eval_steps=2, metric_for_best_model="f1",
        greater_is_better=True, per_device_train_batch_size=4, eval_replicates=2, save_strategy="no",
    )  # fmt: skip
    trainer = Mine(tiny_denoiser(), args, train_rows(24), train_rows(4), tokenizer)
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (1.0, 2)


def test_an_unknown_metric_is_one_sentence_whatever_greater_is_better(make_diffusion_trainer, sets):
    with pytest.raises(UserError) as refused:
        make_diffusion_trainer(evaluation=sets, metric_for_best_model="eval_wiki_exact_match")
    said = str(refused.value)
    assert "no evaluation of DiffusionTrainer has; take one of eval_" in said
    assert "where a subclass of yours adds it, say with greater_is_better" in said
