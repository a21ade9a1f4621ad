#!/usr/bin/env bash
# transformers 5.23.0 with schedulefree 1.4.1: `warmup_steps` below 1 is a share of the steps for every other optimiser. The
# Schedule-Free ones get the number as it is, as their own count of warm-up steps: they divide by it, so that there is no
# warm-up and the first step is 1 / warmup_steps times too long, while the log says the rate that was asked for.
# Seen: with learning_rate 0.001 and warmup_steps 0.1 of 100 steps the first steps are taken with 0.01, 0.001, 0.001 where the
# log has 0.001; with warmup_steps 10 they are 0.0001, 0.0002, 0.0003.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0 schedulefree==1.4.1
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import schedulefree
import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

ROWS = [{"x": torch.ones(3), "labels": torch.zeros(1)}] * 200


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x, labels):
        return {"loss": ((self.layer(x) - labels) ** 2).mean()}


class Rates(TrainerCallback):
    def __init__(self):
        self.taken, self.logged = [], []

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.taken.append(optimizer.optimizer.param_groups[0]["scheduled_lr"])

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged.append(logs.get("learning_rate"))


def rates(warmup):
    callback = Rates()
    arguments = TrainingArguments(
        "out",
        max_steps=100,
        per_device_train_batch_size=1,
        optim="schedule_free_adamw",
        lr_scheduler_type="constant",
        learning_rate=1e-3,
        warmup_steps=warmup,
        logging_steps=1,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(Model(), arguments, train_dataset=ROWS, callbacks=[callback]).train()
    return [round(rate, 6) for rate in callback.taken[:3]], callback.logged[0]


seen = {"share 0.1": rates(0.1), "10 steps": rates(10)}
print(transformers.__version__, seen)
assert seen == {"share 0.1": ([0.01, 0.001, 0.001], 0.001), "10 steps": ([0.0001, 0.0002, 0.0003], 0.001)}, "this has changed"
PY
echo "as described"
