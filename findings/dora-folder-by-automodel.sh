#!/usr/bin/env bash
# transformers 5.23.0 with peft 0.21.2: `AutoModelForCausalLM.from_pretrained` takes the folder of an adapter and loads its base
# with it. For LoRA that is the model that was saved; for DoRA it is another one: the magnitudes are in the file as
# `lora_magnitude_vector`, are looked for as `lora_magnitude_vector.default.weight`, and begin anew. The report of the load
# lists them as missing; no error is raised. `PeftModel.from_pretrained` loads the same folder right.
# Seen: the logits of LoRA are equal either way; those of DoRA differ by more than 0.01 through AutoModel, by nothing through PEFT.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).save_pretrained("base")
ids = torch.arange(8)[None]


def base():
    return AutoModelForCausalLM.from_pretrained("base")


seen = {}
for kind in ("lora", "dora"):
    config = LoraConfig(r=4, use_dora=kind == "dora", target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base(), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(kind)
    want = model(input_ids=ids).logits
    by_auto = AutoModelForCausalLM.from_pretrained(kind).eval()(input_ids=ids).logits
    by_peft = PeftModel.from_pretrained(base(), kind).eval()(input_ids=ids).logits
    seen[kind] = ((by_auto - want).abs().max().item(), (by_peft - want).abs().max().item())
print(transformers.__version__, peft.__version__, seen)
assert max(*seen["lora"], seen["dora"][1]) < 1e-5 and seen["dora"][0] > 0.01, "this has changed"
PY
echo "as described"
