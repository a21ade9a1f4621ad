"""Each trial of a hyper-parameter search has a log of its own, beside its checkpoints."""

from __future__ import annotations

from functools import partial

import pytest

from hf_difflm.callbacks import RunLogCallback, TrackerCallback
from hf_difflm.runs import load_run


@pytest.mark.parametrize("log_dir", [None, "logs"])
@pytest.mark.parametrize("named", [False, True])
def test_no_two_trials_share_a_log(make_trainer, tmp_path, log_dir, named):
    pytest.importorskip("optuna")
    folder = None if log_dir is None else tmp_path / log_dir
    trainer = make_trainer(
        RunLogCallback(run_name="tiny", log_dir=folder),
        TrackerCallback(),
        save_strategy="steps",
        save_steps=3,
    )
    kind, config = type(trainer.model), trainer.model.config
    trainer.model_init = lambda: kind(config)
    rates = []

    def space(trial):
        rates.append(trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True))
        return {"learning_rate": rates[-1]}

    trainer.hyperparameter_search(
        space,
        n_trials=2,
        backend="optuna",
        hp_name=(lambda trial: f"mine-{trial.number}") if named else None,
        compute_objective=lambda metrics: 0.0,
    )
    names = ["mine-0", "mine-1"] if named else ["run-0", "run-1"]
    for name, rate in zip(names, rates, strict=True):
        run = load_run((folder or tmp_path / "out") / name)
        assert (run.name, run.status) == (f"tiny-{name}", "completed")
        assert run.config["learning_rate"] == rate
        assert [step.iter for step in run.steps] == [2, 4, 6]
        for checkpoint in run.checkpoints:
            assert (
                run.path.parent / checkpoint.path
            ).resolve() == tmp_path / "out" / name / f"checkpoint-{checkpoint.iter}"
            assert (run.path.parent / checkpoint.path).is_dir()
    assert not (tmp_path / "out" / "journal.jsonl").exists()


def test_a_second_search_in_one_folder_has_logs_of_its_own(make_trainer, tmp_path):
    for _ in range(2):
        trainer = make_trainer(RunLogCallback(), save_strategy="no")
        kind, config = type(trainer.model), trainer.model.config
        trainer.model_init = partial(kind, config)
        trainer.hyperparameter_search(
            n_trials=1, hp_space=lambda trial: {"seed": trial.suggest_int("seed", 1, 9)}, compute_objective=len
        )
    journals = sorted(path.name for path in (tmp_path / "out" / "run-0").glob("*.jsonl"))
    assert journals == ["journal.jsonl", "tiny-run-0.jsonl"]
