#!/usr/bin/env bash
# transformers 5.23.0 with optuna 4.6.0: `Trainer.hyperparameter_search` over `seed` (model_init given). Guessed: a trial's
# weights begin with the trial's seed. Seen: `train` seeds and calls model_init before the trial's values are set, so weights
# begin with the seed of the trial before, and those of the first trial with the one in TrainingArguments; data order and all
# that is drawn later have the trial's own. A search resumed or cut into two gives the same trial other weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0 optuna==4.6.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import optuna
import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

optuna.logging.set_verbosity(optuna.logging.ERROR)
ROWS = [{"x": torch.ones(3), "labels": torch.zeros(1)}] * 8


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x, labels):
        return {"loss": ((self.layer(x) - labels) ** 2).mean()}


def first_weight(seed):
    set_seed(seed)
    return round(float(Model().layer.weight[0, 0].detach()), 5)


def model_init(trial=None):
    model = Model()
    if trial is not None:
        begun.append(round(float(model.layer.weight[0, 0].detach()), 5))
    return model


class Seeds(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        seeds.append(args.seed)


begun, seeds = [], []
arguments = TrainingArguments(
    "out", max_steps=1, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, seed=7
)
trainer = Trainer(
    None, arguments, train_dataset=ROWS, eval_dataset=ROWS, model_init=model_init, callbacks=[Seeds()]
)
trainer.hyperparameter_search(
    lambda trial: {"seed": trial.suggest_int("seed", 11, 13)},
    n_trials=3,
    direction="minimize",
    backend="optuna",
    sampler=optuna.samplers.BruteForceSampler(seed=0),
)
of_seed = {first_weight(seed): seed for seed in (7, 11, 12, 13)}
weights_of = [of_seed[weight] for weight in begun]
print("transformers", transformers.__version__, "optuna", optuna.__version__)
print("seeds of the trials", seeds, "- seeds their weights begin with", weights_of)
assert sorted(seeds) == [11, 12, 13]
assert weights_of == [7, *seeds[:-1]], "this has changed"
PY
