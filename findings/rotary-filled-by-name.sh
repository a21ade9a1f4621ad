#!/usr/bin/env bash
# transformers 5.23.0: `from_pretrained` computes the frequencies of a rotary embedding by the *name* of its class. A subclass of
# LlamaRotaryEmbedding whose name has no RotaryEmbedding in it is right when the model is built, and after loading has whatever
# was in the memory: the model runs, says nothing, and its logits are another model's.
# Guessed: a subclass is as good as its parent. Seen: the same class body loads right under one name and wrong under the other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 transformers==5.23.0
cat > "$work/names.py" <<'PY'
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
expected = torch.tensor([1.0, 0.1, 0.01, 0.001])


def frequencies(name):
    kind = type(name, (LlamaRotaryEmbedding,), {})

    class Model(LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.model.rotary_emb = kind(config)

    built = Model(LlamaConfig(**sizes))
    built.save_pretrained(sys.argv[1])
    loaded = Model.from_pretrained(sys.argv[1])
    return tuple(torch.allclose(model.model.rotary_emb.inv_freq, expected) for model in (built, loaded))


for name, wanted in (("MyRotaryEmbedding", (True, True)), ("MyAngles", (True, False))):
    built, loaded = frequencies(name)
    print(transformers.__version__, f"{name}: right when built {built}, when loaded {loaded}")
    assert (built, loaded) == wanted, "this has changed"
PY
"$work/venv/bin/python" "$work/names.py" "$work/model" 2>/dev/null
echo "as described"
