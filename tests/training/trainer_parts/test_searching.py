"""A trial is the training that its values say; what would make no difference is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import set_seed

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.runs import load_run
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.borders
FIXED = {
    "use_cpu": True, "max_steps": 3, "per_device_train_batch_size": 4, "eval_strategy": "no", "save_strategy": "no",
    "eval_replicates": 2, "warmup_steps": 0, "weight_decay": 0, "disable_tqdm": True, "learning_rate": 0.01,
    "logging_steps": 1,
}  # fmt: skip


@pytest.fixture
def searching(tiny_denoiser, train_rows, tokenizer, tmp_path):
    """``searching(**arguments)``: a Trainer whose models are drawn by the seed of the trial."""
    config = tiny_denoiser().config

    def make(evaluation: Any = None, **arguments: Any) -> DiffusionTrainer:
        args = DiffusionTrainingArguments(**{"output_dir": str(tmp_path / "search"), **FIXED, **arguments})
        return DiffusionTrainer(
            None, args, train_rows(24), evaluation or train_rows(4, seed=1), tokenizer,
            model_init=lambda: MaskedDiffusionForMaskedLM(config),
        )  # fmt: skip

    make.config = config
    return make


SPACES = [
    {"noise_sampling": ["iid", "stratified"]},
    {"loss_form": ["time", "any_order"]},
    {"ema_decay": [0.5, 0.9]},
    {"global_batch_size": [8, 4], "per_device_train_batch_size": [2, 4]},
    {"per_device_train_batch_size": [2, 4]},
    {"seed": [3, 4], "learning_rate": [0.01, 0.02]},
    {"max_steps": [1, 2]},
    {"warmup_steps": [0.6, 0.9], "weight_decay": [0.5, 0.9]},  # where the arguments have the integer 0
    {"optim": ["sgd", "adamw_torch"]},
    {"lr_scheduler_type": ["constant", "linear"]},
]


@pytest.mark.parametrize("space", SPACES, ids=[" ".join(space) for space in SPACES])
def test_each_trial_is_the_training_that_its_values_say(searching, train_rows, tokenizer, tmp_path, space):
    trials = [dict(zip(space, values, strict=True)) for values in zip(*space.values(), strict=True)]
    searching_trainer = searching()
    best = searching_trainer.hyperparameter_search(lambda trial: trials[trial.number], n_trials=2)
    nll = []
    for number, values in enumerate(trials):
        args = DiffusionTrainingArguments(**{"output_dir": str(tmp_path / str(number)), **FIXED, **values})
        set_seed(args.seed)
        model = MaskedDiffusionForMaskedLM(searching.config)
        alone = DiffusionTrainer(model, args, train_rows(24), train_rows(4, seed=1), tokenizer)
        alone.train()
        nll.append(alone.evaluate()["eval_nll"])
        run, same = load_run(tmp_path / "search" / f"run-{number}"), load_run(tmp_path / str(number))
        assert run.column("loss").tolist() == same.column("loss").tolist()
        assert {name: run.config[name] for name in values} == {name: same.config[name] for name in values}
        assert run.config["global_batch_size"] == same.config["global_batch_size"]
    assert best.objective == min(nll)
    assert best.run_id == str(nll.index(min(nll)))


def test_by_default_the_learning_rate_is_searched_and_the_best_metric_compared(searching):
    trainer = searching(metric_for_best_model="accuracy", max_steps=1)
    seen = []
    trainer.log = lambda logs, *args: seen.append(logs["eval_accuracy"]) if "eval_accuracy" in logs else None
    best = trainer.hyperparameter_search(n_trials=2, sampler=optuna.samplers.RandomSampler(seed=0))
    assert 0.001 <= best.hyperparameters["learning_rate"] <= 0.1
    assert best.objective == max(seen)
    with pytest.raises(UserError, match="direction is 'minimize', but trials are compared by eval_accuracy"):
        trainer.hyperparameter_search(direction="minimize")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"lr": 0.1}, "no setting of a training; did you mean 'learning_rate'"),
        ({"noise_schedule": "cosine"}, r"which the model has: have model_init\(trial\) build it so"),
        ({"eval_seed": 3}, "by which trials are measured"),
        ({"logging_steps": 3}, "changes nothing of what is learned"),
        ({"masking": "inverse"}, "has no effect under objective mdlm"),
        ({"num_train_epochs": 2}, "has no effect while max_steps is 3"),
        ({"learning_rate": -1.0}, "learning_rate must be a number above 0"),
        ({"global_batch_size": 6}, "global_batch_size 6 is not a multiple of"),
    ],
)
def test_values_that_no_trial_would_differ_by_are_refused(searching, value, what):
    with pytest.raises(UserError, match=what):
        searching().hyperparameter_search(lambda trial: value, n_trials=1)


def test_what_a_search_needs_is_told_before_it_trains(searching, make_diffusion_trainer, train_rows):
    with pytest.raises(UserError, match="pass model_init in the place of model"):
        make_diffusion_trainer(evaluation=train_rows(4)).hyperparameter_search()
    with pytest.raises(UserError, match="backend is 'ray'"):
        searching().hyperparameter_search(backend="ray")
    with pytest.raises(UserError, match="n_jobs is 2"):
        searching().hyperparameter_search(n_jobs=2)
    trainer = searching()
    trainer.eval_dataset = None
    with pytest.raises(UserError, match="pass eval_dataset"):
        trainer.hyperparameter_search()


def test_a_pruned_trial_is_in_its_log_as_interrupted(searching, tmp_path):
    class Prune(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1

    trainer = searching(eval_strategy="steps", eval_steps=1)
    trainer.hyperparameter_search(n_trials=3, pruner=Prune())
    runs = [load_run(tmp_path / "search" / f"run-{number}") for number in range(3)]
    assert [run.status for run in runs] == ["completed", "interrupted", "completed"]
    assert "pruned" in runs[1].events[-1].message


def test_a_model_init_that_takes_the_trial_builds_what_is_counted(tiny_denoiser, train_rows, tokenizer, tmp_path):
    def model_init(trial):
        return tiny_denoiser(noise_schedule="cosine" if trial is not None else "loglinear")

    args = DiffusionTrainingArguments(**{"output_dir": str(tmp_path), **FIXED, "loss_form": "time"})
    trainer = DiffusionTrainer(None, args, train_rows(24), train_rows(4), tokenizer, model_init=model_init)
    assert trainer.training_objective.schedule.name == "loglinear"
    trainer.hyperparameter_search(n_trials=1)
    assert trainer.training_objective.schedule.name == "cosine"
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("metric", "chosen"), [(None, "eval_code_nll"), ("eval_wiki_nll", "eval_wiki_nll")])
def test_of_several_evaluation_sets_the_chosen_one_compares_the_trials(searching, train_rows, metric, chosen):
    given = {} if metric is None else {"metric_for_best_model": metric}
    sets = {"code": train_rows(4, seed=1), "wiki": train_rows(4, seed=2)}
    trainer = searching(sets, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3, **given)
    seen: dict[str, list[float]] = {"eval_code_nll": [], "eval_wiki_nll": []}
    log = trainer.log

    def listening(logs, *args, **kwargs):
        for name in seen.keys() & logs.keys():
            seen[name].append(logs[name])
        log(logs, *args, **kwargs)

    trainer.log = listening
    best = trainer.hyperparameter_search(lambda trial: {"seed": trial.number}, n_trials=2)
    assert best.objective == min(seen[chosen])
    assert min(seen["eval_code_nll"]) != min(seen["eval_wiki_nll"])
    assert trainer.args.metric_for_best_model == chosen
