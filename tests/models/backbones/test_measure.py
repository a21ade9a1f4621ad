"""What a backbone reads is measured: direction, reach, padding, kernels, gradients, files."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.backbones import check, families
from hf_difflm.models.backbones.check import check_backbone, check_loaded, check_model, verdict_on
from hf_difflm.models.backbones.configuration import configured
from hf_difflm.models.backbones.measure import measure, measure_weights
from hf_difflm.models.backbones.moves import reach_of
from hf_difflm.models.backbones.sentences import direction_said, layers_said, refuse_unfit, told
from hf_difflm.models.backbones.verdict import Verdict
from hf_difflm.models.build import backbone_config, build_causal_lm, build_denoiser
from hf_difflm.models.options import ModelOptions

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
# Four layers, one of which is attention.
JAMBA = {"attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 4, "mamba_d_state": 8}


def small(backbone: str, layers: int = 4, **backbone_config):
    """The configuration of a small network of that family."""
    options = ModelOptions(
        backbone=backbone,
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        backbone_config=backbone_config,
    )
    return configured(options, 128, SPECIAL, 64)


@pytest.mark.borders
@pytest.mark.parametrize("backbone", ["llama", "gpt2", "bert", "qwen3", "olmo2"])
def test_a_backbone_that_reads_both_sides_is_taken_without_a_word(backbone):
    verdict = measure(small(backbone), causal=False, whole=True)
    assert direction_said(verdict) == "both sides"
    assert told(verdict) == []
    assert verdict.padded_direction == "both sides"
    assert verdict.right_padding
    assert verdict.left_padding
    assert verdict.deterministic
    assert verdict.kernels_agree
    assert verdict.same_after_loading
    assert verdict.kernels == ("sdpa", "eager")
    assert verdict.without_gradient == ()


@pytest.mark.borders
@pytest.mark.parametrize(
    ("backbone", "fields", "said"),
    [
        ("mistral", {"sliding_window": 24}, "both sides, 24 each way"),
        ("modernbert", {"local_attention": 16}, "both sides, 8 each way in 2 of 4 layers"),
        ("gemma2", {"sliding_window": 24}, "both sides, 24 each way in 2 of 4 layers"),
        ("longformer", {"attention_window": 16}, "both sides, 8 each way"),
    ],
)
def test_a_limited_reach_is_told(backbone, fields, said, caplog):
    config = small(backbone, **fields)
    verdict = measure(config, causal=False)
    assert direction_said(verdict) == said
    check._told.clear()
    check_backbone(config, causal=False)
    check_backbone(config, causal=False)
    assert caplog.text.count(said) == 1


def test_a_window_that_is_wider_than_the_model_is_long_is_no_limit():
    verdict = measure(small("mistral", sliding_window=4096), causal=False)
    assert direction_said(verdict) == "both sides, 4,096 each way"
    assert direction_said(verdict, 1024) == "both sides"
    assert told(verdict, 1024) == []


@pytest.mark.parametrize("window", [8, 14, 24])
def test_the_extrapolated_reach_is_that_of_the_real_window(window):
    """The tiny copies have windows of 8 and 16; here the network itself, with its own, is asked."""
    config = small("mistral", layers=1, sliding_window=window)
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
        ids = torch.randint(8, 100, (1, 64), generator=torch.Generator().manual_seed(0))
        other = ids.clone()
        other[0, 32] = 101
        reach = reach_of(model.backbone(ids)[0][0], model.backbone(other)[0][0], 32)
    verdict = measure(config, causal=False)
    assert (reach.back, reach.ahead) == (verdict.back[0], verdict.ahead[0])


@pytest.mark.borders
@pytest.mark.parametrize(
    ("backbone", "fields", "layers"),
    [
        ("jamba", JAMBA, (0, 1, 3)),
        ("bamba", {"attn_layer_indices": [1]}, (0, 2, 3)),
        (
            "qwen3_next",
            {"num_experts": 4, "num_experts_per_tok": 2, "layer_types": ["linear_attention", "full_attention"] * 2},
            (0, 2),
        ),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv", "conv"]}, (0, 2, 3)),
        ("falcon_h1", {}, (0, 1, 2, 3)),  # attention and an SSM side by side
    ],
)
def test_causal_layers_are_named_and_need_a_word(backbone, fields, layers):
    config = small(backbone, **fields)
    verdict = verdict_on(config, causal=False)
    assert verdict.direction == "part causal"
    assert verdict.causal_layers == layers
    with pytest.raises(UserError, match=rf"{layers_said(layers)} of its 4.*--allow-causal-layers"):
        check_backbone(config, causal=False)
    if verdict.same_after_loading:
        assert check_backbone(config, causal=False, allow_causal_layers=True) is verdict


@pytest.mark.borders
@pytest.mark.parametrize(
    ("backbone", "fields"),
    [
        ("mamba", {}),
        ("mamba2", {"num_heads": 8, "head_dim": 16}),
        ("gpt_neo", {"attention_types": [[["global"], 4]]}),
        ("openai-gpt", {}),
        ("jamba", {"num_experts": 4}),
    ],
)
def test_a_wholly_causal_denoiser_is_refused(backbone, fields):
    with pytest.raises(UserError, match=r"causal in each of its 4 layers.*--objective ar"):
        check_backbone(small(backbone, **fields), causal=False, allow_causal_layers=True)


@pytest.mark.borders
@pytest.mark.parametrize("backbone", ["stablelm", "nemotron"])
def test_the_direction_hangs_neither_on_padding_nor_on_the_kernel(backbone):
    verdict = measure(small(backbone), causal=False, whole=True)
    assert verdict.direction == verdict.padded_direction == "both sides"
    assert verdict.kernels_agree


@pytest.mark.borders
@pytest.mark.parametrize("backbone", ["bert", "roberta", "camembert"])
def test_a_twin_that_reads_ahead_is_refused(backbone):
    with pytest.raises(UserError, match=rf"'{backbone}' reads ahead.*--objective mdlm"):
        check_backbone(small(backbone), causal=True)


def test_a_causal_twin_is_taken():
    verdict = check_backbone(small("llama"), causal=True)
    assert verdict.direction == verdict.padded_direction == "causal"
    assert verdict.same_after_loading


def test_experts_share_matrix_products_and_their_rounding_is_no_reading_ahead():
    config = small("mixtral", num_local_experts=4)
    assert measure(config, causal=True).direction == "causal"


@pytest.mark.borders
def test_a_family_without_sdpa_is_built_and_loaded_with_the_kernel_that_it_has(tmp_path):
    config = MaskedDiffusionConfig(backbone_config=small("gemma2"))
    model = MaskedDiffusionForMaskedLM(config).eval()
    assert model.backbone.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path)
    loaded = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path).eval()
    ids = torch.full((1, 8), config.mask_token_id)
    assert torch.equal(model(ids).logits, loaded(ids).logits)


@pytest.mark.borders
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("backbone", "fields", "has_one", "said"),
    [
        ("mixtral", {"num_local_experts": 4}, True, "--router-aux-loss adds one"),
        ("deepseek_v3", {"n_routed_experts": 8, "n_group": 1, "topk_group": 1}, False, "its family has none"),
        ("llama", {}, None, ""),
    ],
)
def test_a_mixture_of_experts_is_told_that_nothing_balances_it(causal, backbone, fields, has_one, said, caplog):
    config = small(backbone, **fields)
    verdict = verdict_on(config, causal=causal)
    assert verdict.router_loss is has_one
    notes = [note for note in told(verdict) if "expert" in note]
    assert notes == ([f"its experts are balanced by no router loss (loss-free routing; {said})"] if said else [])
    check._told.clear()
    for _ in range(2):
        check_backbone(config, causal=causal)
    assert caplog.text.count("loss-free routing") == len(notes)
    caplog.clear()
    if has_one:
        check_backbone(config, causal=causal, router_aux_loss=0.01)
        assert "router" not in caplog.text
    else:
        with pytest.raises(UserError, match=rf"router_aux_loss 0.01 has no effect: backbone '{backbone}' has no"):
            check_backbone(config, causal=causal, router_aux_loss=0.01)


@pytest.mark.borders
@pytest.mark.parametrize("name", ["output_router_logits", "router_aux_loss_coef"])
def test_what_turns_on_a_loss_that_no_objective_reads_is_refused(name):
    value = True if name.startswith("output") else 0.1
    with pytest.raises(UserError, match=rf"'{name}' has no effect.*router_aux_loss"):
        small("mixtral", num_local_experts=4, **{name: value})


@pytest.mark.borders
def test_a_bias_by_distance_is_told():
    assert "ALiBi" in told(measure(small("bloom"), causal=False))[0]
    assert told(measure(small("bloom"), causal=True)) == []


class ReadsAhead(LlamaForCausalLM):
    """A causal LM of a user's own, which is none."""

    def forward(self, input_ids=None, **kwargs):
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = output.logits + output.logits.mean(1, keepdim=True)
        return output


class Foreign(nn.Module):
    """A network without a configuration."""

    def __init__(self, ahead: bool):
        super().__init__()
        self.table = nn.Embedding(64, 64)
        self.ahead = ahead

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids):
        values = self.table(input_ids)
        logits = values.flip(1).cumsum(1).flip(1) if self.ahead else values.cumsum(1)
        return type("Output", (), {"logits": logits})


@pytest.mark.borders
def test_a_model_that_was_not_built_here_is_measured_too():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    check_model(LlamaForCausalLM(config))
    check_model(Foreign(ahead=False))
    with pytest.raises(UserError, match="reads ahead"):
        check_model(ReadsAhead(config))
    with pytest.raises(UserError, match="reads ahead"):
        check_model(Foreign(ahead=True))
    config.is_causal = False
    with pytest.raises(UserError, match="reads ahead"):
        check_model(LlamaForCausalLM(config))


@pytest.mark.borders
def test_what_was_done_to_the_modules_shows_in_the_real_network():
    model = AutoModelForCausalLM.from_config(small("llama", layers=2))
    for layer in model.model.layers:
        layer.self_attn.is_causal = False  # the configuration still says that it is causal
    assert measure_weights(model) == "both sides"
    with pytest.raises(UserError, match="reads ahead"):
        check_model(model)


def test_measuring_leaves_generators_mode_and_default_dtype_alone():
    model = AutoModelForCausalLM.from_config(small("llama", layers=2)).train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure(small("gpt2"), causal=False, whole=True)
    measure_weights(model)
    assert torch.equal(torch.rand(3), expected)
    assert all(module.training for module in model.modules())
    assert torch.get_default_dtype() == torch.float32


def test_a_verdict_is_measured_once_for_each_configuration(monkeypatch):
    calls = []
    monkeypatch.setattr(check, "_verdicts", {})
    monkeypatch.setattr(check, "measure", lambda config, **_: calls.append(config) or Verdict("llama", "denoiser"))
    first, wider = small("llama"), small("llama", rms_norm_eps=0.125)
    for config in (first, first, wider, wider):
        verdict_on(config, causal=False)
    assert calls == [first, wider]
    monkeypatch.setattr(check, "_VERSIONS", ("another",))
    verdict_on(first, causal=False)
    assert len(calls) == 3


@pytest.mark.parametrize("causal", [False, True])
def test_one_network_is_measured_once_whoever_asks(monkeypatch, causal, tokenizer):
    """Before the data are read, when it is built, by the Trainer, when it has been aligned with its tokenizer."""
    calls = []
    monkeypatch.setattr(check, "_verdicts", {})
    real = check.measure
    monkeypatch.setattr(check, "measure", lambda config, **options: calls.append(config) or real(config, **options))
    options = ModelOptions(backbone="gemma2", hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = backbone_config(options, tokenizer, 32)
    check_backbone(config, causal=causal)
    model = (build_causal_lm if causal else build_denoiser)(options, tokenizer, 32)
    check_model(model)
    own = model.config if causal else model.config.backbone_config
    own.pad_token_id, own.use_cache = 5, False
    check_model(model)
    check_loaded(model)
    assert len(calls) == 1


@pytest.mark.borders
@pytest.mark.parametrize("causal", [False, True])
def test_measuring_takes_little(causal):
    """At most 60 ms for direction, reach, padding and determinism, 300 ms for all: 3 % of the start of a training.

    Processor time, of which others on the machine take none; three times as much is allowed to slower machines.
    """
    config, spent = small("llama"), {}
    for whole in (False, True):
        spent[whole] = []
        for _ in range(4):
            start = time.process_time()
            measure(config, causal=causal, whole=whole)
            spent[whole].append(time.process_time() - start)
    assert min(spent[False]) < 3 * 0.06
    assert min(spent[True]) < 3 * 0.3


def test_nothing_is_measured_where_nothing_is_computed():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert verdict_on(small("llama", rms_norm_eps=0.25), causal=False) is None


def test_a_verdict_survives_json():
    verdict = measure(small("gemma2", sliding_window=24), causal=False)
    assert Verdict.from_dict({**verdict.to_dict(), "of_a_later_version": 1}) == verdict


@pytest.mark.borders
@pytest.mark.parametrize(
    ("backbone", "name"), [("gpt2", "n_inner"), ("opt", "ffn_dim"), ("xglm", "ffn_dim"), ("falcon", "ffn_hidden_size")]
)
def test_the_feed_forward_width_goes_by_the_familys_own_name(backbone, name):
    options = ModelOptions(backbone=backbone, hidden_size=64, intermediate_size=96)
    assert getattr(configured(options, 128, SPECIAL, 64), name) == 96


@pytest.mark.borders
@pytest.mark.parametrize(
    ("backbone", "sizes", "fields", "said"),
    [
        (
            "qwen3_moe",
            {"intermediate_size": 96},
            {"num_experts": 4},
            r"intermediate_size 96.*or set moe_intermediate_size",
        ),
        (
            "mistral4",
            {"intermediate_size": 96},
            {"num_local_experts": 4},
            r"intermediate_size 96.*moe_intermediate_size",
        ),
        ("minicpm3", {}, {"num_key_value_heads": 2}, r"num_key_value_heads 2 has no effect: no layer"),
        ("gpt_bigcode", {}, {"num_key_value_heads": 2}, r"num_key_value_heads 2 has no effect: no layer"),
        ("falcon", {}, {"num_kv_heads": 2}, r"num_kv_heads 2 has no effect: no layer"),
        ("nemotron_h", {"num_hidden_layers": 2}, {}, r"num_hidden_layers 2 has no effect.* has 4 layers"),
        ("bloom", {"max_position_embeddings": 64}, {}, r"max_position_embeddings 64 has no effect.*no such limit"),
    ],
)
def test_a_size_that_changes_nothing_is_refused(backbone, sizes, fields, said):
    with pytest.raises(UserError, match=said):
        configured(ModelOptions(backbone=backbone, hidden_size=64, **sizes, backbone_config=fields), 128, SPECIAL, 64)


@pytest.mark.borders
@pytest.mark.parametrize(
    ("backbone", "sizes", "fields"),
    [
        ("llama", {"intermediate_size": 96, "max_position_embeddings": 64}, {"num_key_value_heads": 2}),
        ("lfm2", {"intermediate_size": 96}, {}),
        ("ctrl", {"intermediate_size": 96}, {}),
        ("falcon", {}, {"num_kv_heads": 2, "new_decoder_architecture": True}),
        ("qwen3_moe", {"intermediate_size": 96}, {"num_experts": 4, "mlp_only_layers": [1]}),
        ("nemotron_h", {"num_hidden_layers": 2}, {"layers_block_type": ["mamba", "attention"]}),
    ],
)
def test_a_size_that_changes_something_is_taken(backbone, sizes, fields):
    configured(ModelOptions(backbone=backbone, hidden_size=64, **sizes, backbone_config=fields), 128, SPECIAL, 64)


@pytest.mark.borders
def test_a_width_that_the_family_does_not_have_is_refused():
    options = ModelOptions(backbone="xlstm", hidden_size=64, intermediate_size=96)
    with pytest.raises(UserError, match=r"intermediate_size 96 has no effect.*xlstm"):
        configured(options, 128, SPECIAL, 64)


@pytest.mark.borders
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rms_norm_eps": "small"}, r"'rms_norm_eps' of llama is a number such as 1e-06, got 'small'"),
        ({"hidden_act": 3}, r"'hidden_act' of llama is text such as 'silu', got 3"),
        ({"num_hidden_layers": "4"}, r"'num_hidden_layers' of llama is a whole number such as 32, got '4'"),
        ({"attention_bias": 1}, r"'attention_bias' of llama is true or false such as False, got 1"),
        ({"rope_parameters": 3}, r"rope_parameters"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_field(fields, said):
    with pytest.raises(UserError, match=said) as error:
        small("llama", **fields)
    assert "\n" not in str(error.value)


def test_layers_are_said_in_ranges():
    assert layers_said([0, 1, 2]) == "0, 1, 2"
    assert layers_said([0, 1, 2, 4, 5, 7]) == "0-2, 4-5, 7"


def test_a_family_that_kills_its_process_takes_no_other_with_it(monkeypatch):
    found = dict(families.walk(["llama", "no such family"], 2))
    assert found["llama"]["denoiser"].direction == "both sides"
    assert found["llama"]["causal LM"].direction == "causal"
    assert found["no such family"]["denoiser"].error is not None


def test_the_configuration_is_left_as_it_was():
    config = AutoConfig.for_model("gemma2", num_hidden_layers=4)
    before = config.to_dict()
    measure(config, causal=False, whole=True)
    assert config.to_dict() == before


@pytest.mark.borders
@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_is_another_model_once_it_is_loaded_is_refused(monkeypatch, processes):
    """FalconH1 has buffers that loading does not bring back where it is a part of another model. Of several processes
    transformers saves on the first alone, and each has to find the same."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert measure(small("llama"), causal=False, whole=True).same_after_loading
    verdict = measure(small("falcon_h1"), causal=False, whole=True)
    assert verdict.same_after_loading is False
    with pytest.raises(UserError, match=r"'falcon_h1' computes something else after it is saved and loaded again"):
        refuse_unfit(verdict, allow_causal_layers=True)
    refuse_unfit(measure(small("falcon_h1"), causal=True, whole=True))
    with pytest.raises(UserError, match=r"'youtu' computes something else after it is saved and loaded again"):
        refuse_unfit(measure(small("youtu"), causal=True, whole=True))


def test_measuring_prints_nothing_and_imports_no_deepspeed():
    program = (
        "import sys\n"
        "from transformers import LlamaConfig\n"
        "from hf_difflm.models.backbones.measure import measure\n"
        "config = LlamaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=99)\n"
        "measure(config, causal=False, whole=True)\n"
        "print('data', 'deepspeed' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("data False\n", "")


def test_the_shipped_table_says_nothing_of_the_machine_that_made_it():
    table = (Path(families.__file__).parent / "families.json").read_text(encoding="utf-8")
    assert "site-packages" not in table
    assert len(table) > 10_000
