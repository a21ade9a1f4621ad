"""DiffusionTrainer measures every network that it is given, whoever built it."""

from __future__ import annotations

import pytest
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, LongformerConfig, MambaConfig

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.errors import UserError
from hf_difflm.models.backbones import check
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
    with pytest.raises(UserError, match=said):
        DiffusionTrainer(None, arguments, model_init=model)


@pytest.mark.borders
def test_parameters_that_no_gradient_reaches_are_named_and_ddp_looks_for_them(tmp_path, caplog):
    config = LongformerConfig(**SIZES, intermediate_size=32, num_attention_heads=2, attention_window=4, pad_token_id=1)
    for backbone, named in ((config, True), (BertConfig(**SIZES, intermediate_size=32, num_attention_heads=2), False)):
        model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
        arguments = DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        check._told.clear()
        caplog.clear()
        trainer = DiffusionTrainer(model, arguments)
        assert (
            "no gradient reaches backbone.encoder.layer.0.attention.self.query_global.weight" in caplog.text
        ) is named
        assert trainer.args.ddp_find_unused_parameters is named
        if named:
            assert (
                "backbone.encoder.layer.0.attention.self.query_global.weight"
                in trainer.facts()["backbone"]["without_gradient"]
            )


@pytest.mark.borders
@pytest.mark.parametrize(("objective", "reads"), [("mdlm", "both sides"), ("ar", "causal")])
def test_the_verdict_is_in_the_run_log(make_diffusion_trainer, objective, reads):
    trainer = make_diffusion_trainer(objective=objective, max_steps=1)
    trainer.train()
    backbone = load_run(trainer.args.output_dir).header.metadata["backbone"]
    assert backbone["reads"] == reads
    assert backbone["direction"] == reads
    assert backbone["deterministic"]
