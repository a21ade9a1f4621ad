#!/usr/bin/env bash
# transformers 4.52.4: its `sdpa` does not look at `module.is_causal`. An attention module that says False and passes no mask, as those
# of diffusion language models do (Open-dLLM at 8b38787, written for 4.54.1), reads back only; `eager` reads both sides, and so does
# `sdpa` from 4.54.1 on. Nothing says so, and the weights of one load in the other.
# Guessed: is_causal = False is enough in every version that loads the model. Seen: causal under 4.52.4, both sides under 4.54.1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
for version in 4.52.4 4.54.1; do
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==$version"
  "$work/venv/bin/python" - "$version" <<'PY'
import sys

import torch
import transformers
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

module = nn.Module()
module.is_causal = False
query, key, value = torch.randn(3, 1, 1, 4, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
found, _ = sdpa_attention_forward(module, query, key, value, None)
both, back = (
    nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal).transpose(1, 2)
    for causal in (False, True)
)
seen = "both sides" if torch.allclose(found, both) else "back only" if torch.allclose(found, back) else "something else"
print(transformers.__version__, f"is_causal = False, no mask: reads {seen}")
assert transformers.__version__ == sys.argv[1]
assert seen == {"4.52.4": "back only", "4.54.1": "both sides"}[sys.argv[1]], "this has changed"
PY
done
echo "as described"
