#!/usr/bin/env bash
# transformers 5.23.0 with optuna 4.6.0: `Trainer.hyperparameter_search` casts each value to the type of what stands in the
# arguments before. `warmup_steps` below 1 is a share of the steps, and its default is the integer 0. Guessed: a search over
# 0.05 to 0.3 compares shares, as `TrainingArguments(warmup_steps=0.1)` does. Seen: every trial trains with warmup_steps 0, no
# warm-up at all, while the study records the shares; with warmup_steps=0.0 in the arguments the shares are used.
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
from transformers import Trainer, TrainerCallback, TrainingArguments

optuna.logging.set_verbosity(optuna.logging.ERROR)
ROWS = [{"x": torch.ones(3), "labels": torch.zeros(1)}] * 8


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x, labels):
        return {"loss": ((self.layer(x) - labels) ** 2).mean()}


class First(TrainerCallback):
    """The warm-up as it is used, and the rate of the first of 20 steps."""

    def __init__(self):
        self.seen = []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step == 1:
            self.seen.append((args.warmup_steps, round(optimizer.param_groups[0]["lr"], 6)))


def searched(**given):
    first = First()
    arguments = TrainingArguments(
        "out",
        max_steps=20,
        learning_rate=1e-3,
        lr_scheduler_type="constant_with_warmup",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **given,
    )
    trainer = Trainer(
        None, arguments, train_dataset=ROWS, eval_dataset=ROWS, model_init=lambda: Model(), callbacks=[first]
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"warmup_steps": trial.suggest_float("warmup_steps", 0.25, 0.25)},
        n_trials=1,
        direction="minimize",
        backend="optuna",
    )
    return best.hyperparameters, first.seen


print("transformers", transformers.__version__, "optuna", optuna.__version__)
recorded, used = searched()
print("recorded", recorded, "- used, with the rate of the second step", used)
assert recorded == {"warmup_steps": 0.25}
assert used == [(0, 0.001)], "this has changed"
recorded, used = searched(warmup_steps=0.0)
print("beginning with 0.0: recorded", recorded, "- used", used)
assert used == [(0.25, 0.0002)], "this has changed"
PY
