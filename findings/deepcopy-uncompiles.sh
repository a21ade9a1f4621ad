#!/usr/bin/env bash
# torch 2.13.0: a model compiled in place (`model.compile()`) is copied without what was compiled. Its deep copy, and
# with it the average that `torch.optim.swa_utils.AveragedModel` keeps for evaluation, runs eagerly; nothing says so.
# A comparison of "compiled" and "eager" made with copies compares eager with eager.
# Seen: the backend is asked once for the model itself, and not once for the copy or the average.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
import copy

import torch
from torch.optim.swa_utils import AveragedModel

asked = []


def backend(graph, example_inputs):
    asked.append(1)
    return graph


def compilations(model):
    before = len(asked)
    model(torch.ones(2, 3))
    return len(asked) - before


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.layer(x).relu()


model = Model()
model.compile(backend=backend)
seen = {"the model": compilations(model), "its deep copy": compilations(copy.deepcopy(model))}
seen["its average"] = compilations(AveragedModel(model))
print(torch.__version__, seen)
assert seen == {"the model": 1, "its deep copy": 0, "its average": 0}, "this has changed"
PY
echo "as described"
