"""DiffusionTrainer measures every network that it is given, whoever built it."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.training.arguments import DiffusionTrainingArguments
from hf_difflm.training.trainer import DiffusionTrainer

SIZES = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2}


class ReadsAhead(LlamaForCausalLM):
    """A causal LM of a user's own, which is none."""

    def forward(self, input_ids=None, **kwargs):
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = output.logits + output.logits.mean(1, keepdim=True)
        return output


@pytest.mark.borders
@pytest.mark.parametrize(
    ("model", "objective", "said"),
    [
        (lambda: ReadsAhead(LlamaConfig(**SIZES, intermediate_size=32, num_attention_heads=2)), "ar", "reads ahead"),
        (
            lambda: MaskedDiffusionForMaskedLM(
                MaskedDiffusionConfig(backbone_config=MambaConfig(**SIZES, state_size=4))
            ),
            "mdlm",
            "causal in each of its 2 layers",
        ),
    ],
    ids=["a twin that reads ahead", "a causal denoiser"],
)
def test_a_network_that_is_not_what_its_kind_is_trained_as_is_refused(model, objective, said, tmp_path):
    arguments = DiffusionTrainingArguments(output_dir=str(tmp_path), objective=objective, use_cpu=True)
    with pytest.raises(UserError, match=said):
        DiffusionTrainer(model(), arguments)


@pytest.mark.borders
@pytest.mark.parametrize(("objective", "reads"), [("mdlm", "both sides"), ("ar", "causal")])
def test_the_verdict_is_in_the_run_log(make_diffusion_trainer, objective, reads):
    trainer = make_diffusion_trainer(objective=objective, max_steps=1)
    trainer.train()
    backbone = load_run(trainer.args.output_dir).header.metadata["backbone"]
    assert backbone["reads"] == reads
    assert backbone["direction"] == reads
    assert backbone["deterministic"]
