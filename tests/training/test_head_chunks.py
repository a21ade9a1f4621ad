"""``head_chunk_rows`` reaches every model that is trained, and changes no number."""

from __future__ import annotations

import pytest


def test_the_argument_is_handed_on_and_without_it_a_model_keeps_its_own(make_diffusion_trainer, tiny_denoiser):
    assert make_diffusion_trainer(head_chunk_rows=5).model.head_chunk_rows == 5
    own = tiny_denoiser()
    own.head_chunk_rows = 7
    assert make_diffusion_trainer(model=own).model.head_chunk_rows == 7
    assert make_diffusion_trainer(model=own, head_chunk_rows=0).model.head_chunk_rows == 0


def test_each_trial_of_a_search_has_it_and_is_judged_by_its_own_nll(make_diffusion_trainer, tiny_denoiser, train_rows):
    pytest.importorskip("optuna")
    trainer = make_diffusion_trainer(
        evaluation=train_rows(4, seed=5), head_chunk_rows=5, max_steps=1, save_log_to_json=False
    )
    made = []

    def model_init():
        made.append(tiny_denoiser())
        return made[-1]

    trainer.model_init = model_init
    judged = []

    def compute_objective(metrics):
        judged.append(metrics["eval_nll"])
        return judged[-1]

    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
        n_trials=2,
        backend="optuna",
        compute_objective=compute_objective,
    )
    assert [model.head_chunk_rows for model in made] == [5, 5]
    assert best.objective == min(judged)
    assert len(set(judged)) == 2


def test_training_in_chunks_logs_what_training_all_at_once_logs(make_diffusion_trainer, tmp_path):
    rows = []
    for head_chunk_rows in (0, 3):
        trainer = make_diffusion_trainer(
            head_chunk_rows=head_chunk_rows, output_dir=str(tmp_path / str(head_chunk_rows))
        )
        trainer.train()
        rows.append([entry for entry in trainer.state.log_history if "grad_norm" in entry])
    assert len(rows[0]) == 3
    for whole, in_chunks in zip(*rows, strict=True):
        for name in ("loss", "grad_norm", "accuracy", "masking_rate"):
            assert in_chunks[name] == pytest.approx(whole[name], rel=1e-5), name
