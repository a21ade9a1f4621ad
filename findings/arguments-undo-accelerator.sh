#!/usr/bin/env bash
# transformers 5.23.0 with accelerate 1.15.0: an Accelerator that was made before a TrainingArguments is broken by it.
# Reading `.device` of the arguments (which the Trainer, and many scripts, do) resets the state that all Accelerators share;
# the older object then has no `distributed_type`, and `prepare` ends in an AttributeError that speaks of
# `_reset_state`, which nobody called. A script that prepares its own model and then fills TrainingArguments for a callback
# or a Trainer meets it; the other order works.
# Seen: AttributeError in the one order, nothing in the other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0
cat > "$work/order.py" <<'PY'
import sys

import accelerate
import torch
import transformers
from accelerate import Accelerator
from transformers import TrainingArguments


def arguments():
    return TrainingArguments(sys.argv[2], use_cpu=True).device


if sys.argv[1] == "arguments first":
    arguments()
accelerator = Accelerator(cpu=True)
if sys.argv[1] == "accelerator first":
    arguments()
try:
    accelerator.prepare(torch.nn.Linear(2, 2))
    seen = "works"
except AttributeError as error:
    seen = f"AttributeError: {error}"
print(transformers.__version__, accelerate.__version__, f"{sys.argv[1]}: {seen}")
assert (seen == "works") is (sys.argv[1] == "arguments first"), "this has changed"
assert seen == "works" or "_reset_state" in seen, "this has changed"
PY
for order in "arguments first" "accelerator first"; do
  "$work/venv/bin/python" "$work/order.py" "$order" "$work/out"
done
echo "as described"
