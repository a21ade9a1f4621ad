"""The evaluation that a table quotes is the one whose weights ``best/`` holds, whichever metric chose them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_difflm.evaluation.targets import find_weights
from hf_difflm.hub.source import find_source
from hf_difflm.runs import Journal, compare_runs, load_run
from hf_difflm.runs.derived.document import summarize
from hf_difflm.runs.journal.schema import EvaluationRecord, RunRecord

pytestmark = pytest.mark.borders

NUMBERS = {2: (3.0, 0.1, 5.0), 4: (3.5, 0.3, 4.0), 6: (4.0, 0.2, 6.0)}
"""Step to nll, accuracy and a metric of the user's."""


def written(folder: Path, **config: Any) -> Any:
    journal = Journal(folder / "journal.jsonl")
    journal.append(RunRecord(run_name=folder.name, run_id="x", objective="mdlm", bound="nelbo", config=config))
    for step, (nll, accuracy, mine) in NUMBERS.items():
        metrics = {"eval_nll": nll, "eval_loss": nll, "eval_accuracy": accuracy, "eval_mine": mine}
        journal.append(EvaluationRecord(iter=step, metrics=metrics))
    journal.close()
    return load_run(folder)


@pytest.mark.parametrize(
    ("config", "step"),
    [
        ({}, 2),
        ({"metric_for_best_model": None}, 2),
        ({"metric_for_best_model": "loss", "greater_is_better": False}, 2),
        ({"metric_for_best_model": "eval_nll"}, 2),
        ({"metric_for_best_model": "eval_accuracy"}, 4),
        ({"metric_for_best_model": "accuracy", "greater_is_better": True}, 4),
        ({"metric_for_best_model": "mine", "greater_is_better": True}, 6),
        ({"metric_for_best_model": "mine", "greater_is_better": False}, 4),
        ({"metric_for_best_model": "mine"}, 2),
        ({"metric_for_best_model": "not_there", "greater_is_better": True}, 2),
    ],
)
def test_what_chose_the_best_weights_says_which_evaluation_is_theirs(tmp_path, config, step):
    run = written(tmp_path / "run", **config)
    assert run.best_evaluation.iter == step
    assert run.lowest_evaluation.iter == summarize(run)["best_val_iter"] == 2


def test_the_table_says_which_checkpoint_its_number_belongs_to(tmp_path, tiny_denoiser, tokenizer):
    run = written(tmp_path / "run", metric_for_best_model="eval_accuracy")
    comparison = compare_runs([run])
    assert (comparison.rows[0].eval_nll, comparison.rows[0].eval_accuracy, comparison.rows[0].best_step) == (
        3.5,
        0.3,
        4,
    )
    sentence = (
        "Of run the evaluation of step 4 is quoted, whose weights best/ holds: eval_accuracy chose it; its lowest nll is "
        "3.0000, of step 2."
    )
    assert sentence in comparison.to_text(400)
    assert sentence in comparison.to_markdown()
    assert "chose it" not in compare_runs([written(tmp_path / "other")]).to_text(400)
    tiny_denoiser().save_pretrained(tmp_path / "run/best")
    tokenizer.save_pretrained(tmp_path / "run/best")
    assert find_weights(str(tmp_path / "run")).step == 4
    source = find_source(tmp_path / "run")
    assert (source.step, source.evaluation.iter) == (4, 4)


def test_the_last_line_of_a_training_names_what_is_kept(make_diffusion_trainer, train_rows, tmp_path):
    from hf_difflm.experiments.run_ends import ending

    trainer = make_diffusion_trainer(
        evaluation=train_rows(8, seed=5),
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="eval_forwards",
    )
    trainer.train()  # the same at each evaluation, so that the first one stays the best
    folder = tmp_path / "run"
    assert ending(trainer, folder).startswith("done: best eval_forwards 16.0000, eval_nll ")
    assert f"at step 1, kept in {folder / 'best'}" in ending(trainer, folder)
    assert load_run(folder).best_evaluation.iter == 1
