"""Released models that are Qwen3-MoE or Llama by another name, which no code of their authors was run for, and LLaDA's heirs.

Their networks are the stock ones of transformers, by what their code was read to compute; so that is what they are held to.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from released_models import FIXTURES, TOLERANCE, changed, difference, expected
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.hub.conversion.released.backwards import give_back
from hf_difflm.models import MaskedDiffusionForMaskedLM

MASK = 63
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "head_dim": 16, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
# What config.json of the releases says, beside what Qwen3-MoE's and Llama's says.
RELEASED: dict[str, dict[str, Any]] = {
    "SDAR-MoE": {"model_type": "sdar_moe", "architectures": ["SDARMoeForCausalLM"], "block_size": 4},
    "RND1": {"model_type": "rnd1", "architectures": ["RND1LM"], "num_diffusion_steps": 256},
    "DiffuLLaMA": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
}
SHIFTED = ("RND1", "DiffuLLaMA")


def stock(title: str, renormalised: bool = True, **sizes: Any) -> Any:
    """The network of transformers that it is, with random weights."""
    torch.manual_seed(0)
    theta: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    if title == "DiffuLLaMA":
        model: Any = LlamaForCausalLM(LlamaConfig(**SIZES | sizes, **theta))
    else:
        more = {"norm_topk_prob": renormalised, "use_sliding_window": False, "mlp_only_layers": []}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES | sizes, **EXPERTS, **theta, **more))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.3) if weight.dim() > 1 else weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def written(title: str, folder: Path, model: Any = None, **values: Any) -> Path:
    """A folder as the release has it; ``gone`` leaves a key out."""
    (model or stock(title)).save_pretrained(folder)
    said = json.loads((folder / "config.json").read_text())
    del said["rope_parameters"]
    if "num_local_experts" in said:
        said["num_experts"] = said.pop("num_local_experts")  # as transformers 4 writes it
    said |= {"rope_theta": 1e6, "rope_scaling": None, "mask_token_id": MASK} | RELEASED[title] | values
    (folder / "config.json").write_text(json.dumps({key: value for key, value in said.items() if value != "gone"}))
    return folder


def converted(title: str, folder: Path, place: Path, **options: Any) -> Any:
    more = {"released_as": "diffullama"} if title == "DiffuLLaMA" else {}
    return convert(str(folder), place, no_tokenizer=True, **{**more, **options})


def logits_of(title: str, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids with masks, and the logits of the stock network under the attention and the shift of the release."""
    ids = torch.randint(0, MASK, (1, 8), generator=torch.Generator().manual_seed(1))
    ids[0, [4, 6, 7]] = MASK
    block = torch.arange(8) // (4 if title == "SDAR-MoE" else 8)
    with torch.no_grad():
        logits = model(ids, attention_mask=(block[:, None] >= block[None])[None, None]).logits
    return ids, torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if title in SHIFTED else logits


@pytest.mark.parametrize("title", RELEASED)
def test_the_logits_are_those_of_the_stock_network_and_the_model_says_that_more_was_not_checked(title, tmp_path):
    folder = written(title, tmp_path / "released")
    experts = [name for name in load_file(folder / "model.safetensors") if "experts.0.gate_proj.weight" in name]
    assert len(experts) == (0 if title == "DiffuLLaMA" else 2)
    made = converted(title, folder, tmp_path / "made")
    assert made.kind == f"{title}, not checked against the authors' code"
    assert (made.diffusion_block_size, made.shift_logits) == (4 if title == "SDAR-MoE" else None, title in SHIFTED)
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    assert model.config.converted_from["kind"] == made.kind
    ids, logits = logits_of(title, stock(title))
    assert difference(model, ids, logits) < TOLERANCE


@pytest.mark.parametrize("title", ["SDAR-MoE", "RND1"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"norm_topk_prob": "gone"}, "has no 'norm_topk_prob'"),
        ({"num_experts": "gone"}, "has no 'num_experts'"),
        ({"head_dim": "gone"}, "has no 'head_dim'"),
        ({"moe_intermediate_size": "gone"}, "has no 'moe_intermediate_size'"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step 2, which has to be 1"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"mask_token_id": "gone"}, "the releases: 151669"),
        ({"architectures": ["LlamaForCausalLM"]}, "not of one model"),
    ],
)
def test_what_their_configuration_does_not_say_is_asked_for(title, values, said, tmp_path):
    with pytest.raises(UserError, match=said):
        converted(title, written(title, tmp_path / "released", **values), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_the_blocks_of_an_sdar_of_experts_may_be_the_users_to_say(tmp_path):
    folder = written("SDAR-MoE", tmp_path / "released", block_size="gone")
    with pytest.raises(UserError, match="has no block_size; say with --diffusion-block-size"):
        converted("SDAR-MoE", folder, tmp_path / "made")
    assert converted("SDAR-MoE", folder, tmp_path / "made", diffusion_block_size=4).diffusion_block_size == 4


def test_weights_of_chosen_experts_sum_to_one_only_where_the_configuration_says_so(tmp_path):
    found = []
    for renormalised in (True, False):
        theirs = stock("RND1", renormalised)
        folder = written("RND1", tmp_path / f"{renormalised}", theirs)
        made = converted("RND1", folder, tmp_path / f"made-{renormalised}")
        model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
        ids, logits = logits_of("RND1", theirs)
        assert difference(model, ids, logits) < TOLERANCE
        found.append(logits)
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.parametrize(("title", "to"), [("SDAR-MoE", "sdar"), ("RND1", "dream")])
def test_a_mixture_of_experts_is_not_written_as_another_network(title, to, tmp_path):
    made = converted(title, written(title, tmp_path / "released"), tmp_path / "made")
    with pytest.raises(UserError, match="qwen3_moe"):
        give_back(str(made.folder), tmp_path / "back", to, no_tokenizer=True)


def test_diffugpt_is_refused_by_the_names_of_its_weights(tmp_path):
    folder = tmp_path / "released"
    folder.mkdir()
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_layer": 1, "n_head": 1}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"embed_tokens.weight": torch.ones(4, 8), "denoise_model.wpe.weight": torch.ones(4, 8)}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="it is DiffuGPT, a GPT-2 that reads both ways") as caught:
        convert(str(folder), tmp_path / "made")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("heir", ["LLaDA 1.5", "UltraLLaDA", "DiffuCoder"])
def test_heirs_that_keep_the_format_are_known_by_it(heir, tmp_path):
    """By what is said of them: LLaDA 1.5 is LLaDA tuned, UltraLLaDA has another base of its rotation, DiffuCoder is Dream."""
    name = "dream" if heir == "DiffuCoder" else "llada"
    values = {"rope_theta": 5e7} if heir == "UltraLLaDA" else {}
    made = convert(str(changed(name, tmp_path / "released", **values)), tmp_path / "made")
    assert made.kind == ("Dream" if heir == "DiffuCoder" else "LLaDA")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    tensors, _ = expected(name)
    assert (difference(model, tensors["ids"], tensors["logits"]) < TOLERANCE) == (not values)
    assert not values or model.config.backbone_config.rope_parameters["rope_theta"] == values["rope_theta"]


def test_a_llama_with_a_mask_of_its_own_is_asked_whether_it_is_a_diffullama(tmp_path, caplog):
    folder = written("DiffuLLaMA", tmp_path / "released", stock("DiffuLLaMA", vocab_size=264), mask_token_id="gone")
    for file in (FIXTURES / "open-dllm").glob("*token*"):
        shutil.copy(file, folder)
    assert convert(str(folder), tmp_path / "taken").kind == "causal LM"
    assert "as DiffuLLaMA's models are, convert it with --as diffullama" in caplog.text
    made = convert(str(folder), tmp_path / "made", released_as="diffullama")
    assert (made.mask_token, made.shift_logits) == ("<M>", True)
