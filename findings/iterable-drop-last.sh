#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0: `dataloader_drop_last=True` does nothing for an IterableDataset. The Trainer hands
# `drop_last` to the loader of a map-style set only, so a streamed epoch ends with a batch of what was left over: a step with
# fewer rows than the others, and under torch.compile another shape. The same rows in a list lose it.
# Seen: 10 rows by 4 make steps of 4, 4 and 2 rows from a stream, and 4 and 4 from a list.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
import transformers
from transformers import Trainer, TrainingArguments

ROWS = [{"x": torch.ones(3), "labels": torch.zeros(1)} for _ in range(10)]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.sizes = torch.nn.Linear(3, 1), []

    def forward(self, x, labels):
        self.sizes.append(len(x))
        return {"loss": ((self.layer(x) - labels) ** 2).mean()}


def sizes(rows):
    model = Model()
    arguments = TrainingArguments(
        "out",
        max_steps=2 if rows is ROWS else 3,
        per_device_train_batch_size=4,
        dataloader_drop_last=True,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=rows).train()
    return model.sizes


seen = {"list": sizes(ROWS), "stream": sizes(Stream())}
print(transformers.__version__, seen)
assert seen == {"list": [4, 4], "stream": [4, 4, 2]}, "this has changed"
PY
echo "as described"
