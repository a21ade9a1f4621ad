"""Every kind of adapter: trained, saved, resumed, merged, pushed and evaluated it gives one number, or it is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_difflm.errors import UserError
from hf_difflm.evaluation.targets import load_target
from hf_difflm.hub.folder import write_folder
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.adapters.kinds import TRAINED
from hf_difflm.models.loading import load_model

peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'hf_difflm[peft]')")
pytestmark = pytest.mark.borders

MASK = 259
IDS = torch.tensor([[256, 97, MASK, 98, MASK, MASK, 99, MASK]])
DENSE = ["q_proj", "v_proj", "up_proj"]
NO_DENSE: dict[str, Any] = {"target_modules": ["q_proj"]}


def of(kind: str, **options: Any) -> Callable[[], Any]:
    options = {"target_modules": DENSE, **options}
    return lambda: getattr(peft, f"{kind}Config")(**options)


def lora(**options: Any) -> Callable[[], Any]:
    return of("Lora", r=2, lora_alpha=4, **options)


KINDS: dict[str, Callable[[], Any]] = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "dora": lora(use_dora=True),
    "lora_bias": lora(lora_bias=True, target_modules=["q_proj", "v_proj"]),
    "biases": lora(bias="lora_only"),
    "patterns": lora(rank_pattern={"q_proj": 3}, alpha_pattern={"v_proj": 1}, layers_to_transform=[1]),
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "oft": of("OFT", oft_block_size=4),
    "boft": of("BOFT", boft_block_size=4),
    "ia3": of("IA3", feedforward_modules=["up_proj"]),
    "vera": of("Vera", r=4),
    "loha": of("LoHa", r=2),
    "lokr": of("LoKr", r=2),
    "tokens": of("TrainableTokens", token_indices=[97, 98], target_modules=["embed_tokens"]),
    "fourierft": of("FourierFT", n_frequency=8),
    "hra": of("HRA", r=2),
    "vblora": of("VBLoRA", r=2, num_vectors=8, vector_length=4, topk=2),
    "miss": of("Miss", r=2),
    "shira": of("Shira", r=1),
    "c3a": of("C3A", block_size=8),
    "head": lora(target_modules=["lm_head"]),
    "head, dora": lora(target_modules=["lm_head"], use_dora=True),
    "head, oft": of("OFT", oft_block_size=4, target_modules=["lm_head"]),
    "head, loha": of("LoHa", r=2, target_modules=["lm_head"]),
    "embedding": lora(target_modules=["embed_tokens"]),
    "head and embedding": lora(target_modules=["lm_head", "embed_tokens"]),
    "one for both": lora(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "head saved": lora(modules_to_save=["lm_head"]),
    "embedding saved": lora(modules_to_save=["embed_tokens"]),
    "both saved": lora(modules_to_save=["lm_head", "embed_tokens"]),
    "norm saved": lora(modules_to_save=["norm"]),
    "lora, tokens": lora(trainable_token_indices=[97, 98]),
    "lora, tokens of the head": lora(trainable_token_indices={"lm_head": [97, 98]}),
}
BOTH_WAYS = [name for name in KINDS if "head" in name or "embedding" in name or "saved" in name or "token" in name]
QUICK = ["lora", "rslora", "dora", "lora_bias", "oft", "boft", "ia3", "vera", "loha", "lokr", "head", "head, dora"]
QUICK += ["head and embedding", "one for both", "both saved", "head saved", "lora, tokens", "tokens"]
CASES = [
    pytest.param(
        name, tied, id=f"{name}-{'tied' if tied else 'untied'}", marks=[] if name in quick else pytest.mark.slow
    )
    for names, tied, quick in ((KINDS, True, QUICK), (BOTH_WAYS, False, ["head", "both saved", "lora, tokens"]))
    for name in names
]


def make_base(folder: Path, tokenizer: Any, tied: bool, causal: bool = False) -> Path:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = LlamaConfig(
        vocab_size=260,
        max_position_embeddings=64,
        initializer_range=0.2,
        attention_bias=True,
        tie_word_embeddings=tied,
        bos_token_id=256,
        eos_token_id=257,
        **sizes,
    )
    if causal:
        LlamaForCausalLM(backbone).save_pretrained(folder)
    else:
        config = MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=MASK, tie_word_embeddings=tied)
        MaskedDiffusionForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def train(make_diffusion_trainer: Any, train_rows: Any, tmp_path: Path) -> Callable[..., Any]:
    """``train(model, **arguments)``: a Trainer of 4 steps, a checkpoint after 2 and 4, evaluated at the end."""

    def make(model: Any, **arguments: Any) -> Any:
        given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 4}
        given |= {"output_dir": str(tmp_path / "run"), "learning_rate": 0.03, "logging_steps": 4}
        return make_diffusion_trainer(model=model, evaluation=train_rows(8, seed=5), **{**given, **arguments})

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits[IDS == MASK][:, :MASK]


def nll(trainer: Any, model: Any) -> float:
    trained, trainer.model = trainer.model, model
    found = trainer.evaluate()["eval_nll"]
    trainer.model = trained
    return found


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_trained_saved_resumed_merged_pushed_and_evaluated_it_is_one_network(train, tokenizer, tmp_path, name, tied):
    base = make_base(tmp_path / "base", tokenizer, tied)

    def fresh() -> Any:
        return MaskedDiffusionForMaskedLM.from_pretrained(base)

    torch.manual_seed(7)
    trainer = train(peft.get_peft_model(fresh(), KINDS[name]()))
    trainer.train()
    wanted, number = logits(trainer.model), trainer.evaluate()["eval_nll"]
    assert (wanted - logits(fresh())).abs().max() > 0.01

    torch.manual_seed(7)
    again = train(peft.get_peft_model(fresh(), KINDS[name]()))
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)

    best = tmp_path / "run/best"
    shutil.copytree(tmp_path / "run/checkpoint-4", tmp_path / "adapter")  # without the log, whose pictures take seconds
    write_folder(tmp_path / "adapter", tmp_path / "pushed", repo_id="o/n")
    loaded = {
        "checkpoint": load_target(str(tmp_path / "run/checkpoint-4"), use_cpu=True).model,
        "best": load_target(str(tmp_path / "run"), use_cpu=True).model,
        "plain": MaskedDiffusionForMaskedLM.from_pretrained(best),
        "peft": peft.PeftModel.from_pretrained(fresh(), best / "adapter"),
        "pushed": MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "pushed"),
    }
    for how, model in loaded.items():
        torch.testing.assert_close(
            logits(model), wanted, rtol=1e-4, atol=1e-4, msg=lambda text, how=how: f"{how}: {text}"
        )
        assert nll(trainer, model) == pytest.approx(number, rel=1e-5), how
    assert load_file(best / "model.safetensors").keys() <= fresh().state_dict().keys()
    adapter = load_file(best / "adapter/adapter_model.safetensors")
    if "saved" not in name:  # then the table itself is what is trained
        assert not any(tensor.shape == (260, 16) for tensor in adapter.values())
    assert json.loads((best / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_every_kind_that_is_said_to_be_trained_is_tried():
    assert {make().peft_type.value for make in KINDS.values()} == set(TRAINED)


@pytest.mark.parametrize("name", ["lora", "head and embedding", "both saved", "lora, tokens"])
def test_a_causal_lm_the_same(train, tokenizer, tmp_path, name):
    base = make_base(tmp_path / "base", tokenizer, tied=True, causal=True)
    trainer = train(peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), KINDS[name]()), objective="ar")
    trainer.train()
    wanted = logits(trainer.model)
    for folder in ("run/checkpoint-4", "run/best"):
        torch.testing.assert_close(logits(load_model(tmp_path / folder, folder)), wanted, rtol=1e-4, atol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run/best")
    torch.testing.assert_close(logits(plain), wanted, rtol=1e-4, atol=1e-4)


def test_the_type_of_every_copied_script_is_taken(train, tokenizer, tmp_path):
    """``task_type="CAUSAL_LM"`` wraps the network in a class that asks for more than ``forward``."""
    base = make_base(tmp_path / "base", tokenizer, tied=False)
    config = lora(task_type="CAUSAL_LM")()
    model = peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), config)
    trainer = train(model)
    trainer.train()
    text = model.generate(IDS, max_new_tokens=2, seed=1)
    assert text.shape == (1, IDS.shape[1] + 2)
    assert torch.equal(text, model.get_base_model().generate(IDS, max_new_tokens=2, seed=1))
    loaded = load_target(str(tmp_path / "run/checkpoint-4"), use_cpu=True).model
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)


def test_averages_of_an_adapter_made_by_peft_are_what_is_evaluated_and_loaded(train, tokenizer, tmp_path):
    base = make_base(tmp_path / "base", tokenizer, tied=True)
    trainer = train(
        peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), KINDS["head"]()), ema_decay=0.9
    )
    trainer.train()
    with trainer.evaluated_weights():
        averaged = logits(trainer.model)
    assert not torch.allclose(averaged, logits(trainer.model), atol=1e-3)
    for folder in ("run/checkpoint-4", "run/best"):
        torch.testing.assert_close(logits(load_model(tmp_path / folder, folder)), averaged, rtol=1e-4, atol=1e-4)


def adalora() -> Any:
    sizes = {"init_r": 4, "target_r": 2, "total_step": 6, "tinit": 1, "tfinal": 2}
    return peft.AdaLoraConfig(target_modules=DENSE, **sizes)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (adalora, "kind ADALORA, which has a schedule and a loss of its own"),
        (of("RandLora", r=2), "kind RANDLORA, which is not known to become a part"),
        (lora(init_lora_weights="pissa_niter_4"), "changes the network that it belongs to"),
        (lora(alora_invocation_tokens=[97], task_type="CAUSAL_LM"), "alora_invocation_tokens"),
        (lora(lora_bias=True, target_modules=["up_proj"]), "base layer has no bias"),
    ],
)
def test_a_kind_that_cannot_be_one_network_is_refused_before_the_training(train, tokenizer, tmp_path, make, says):
    base = make_base(tmp_path / "base", tokenizer, tied=False)
    model = peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), make())
    with pytest.raises(UserError, match=says):
        train(model)
    assert not (tmp_path / "run/checkpoint-2").exists()


def test_several_adapters_and_adapters_of_a_name_are_refused(train, tokenizer, tmp_path):
    base = make_base(tmp_path / "base", tokenizer, tied=False)
    model = peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), KINDS["lora"](), adapter_name="mine")
    with pytest.raises(UserError, match="has the adapters mine, but one with the name 'default'"):
        train(model)


def test_an_adapter_with_a_rank_of_its_own_for_each_layer_is_merged(tokenizer, tmp_path):
    """AdaLoRA by PEFT's own loop: not trained here, but evaluated and pushed."""
    base = make_base(tmp_path / "base", tokenizer, tied=False)
    model = peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), adalora())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    for step in range(6):
        model(IDS, labels=torch.where(IDS == MASK, 97 + step, -100)).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "made")
    config = json.loads((tmp_path / "made/adapter_config.json").read_text())
    assert config["rank_pattern"]
    torch.testing.assert_close(logits(load_model(tmp_path / "made", "made")), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "XLORA"}, "kind XLORA, which is not known to become a part of the weights; take one of LORA"),
        ({"peft_type": "PROMPT_TUNING"}, "kind PROMPT_TUNING"),
        ({"peft_type": "LORA", "megatron_config": {"a": 1}}, "has megatron_config"),
        ({"peft_type": "LORA", "init_lora_weights": "loftq"}, "changes the network"),
    ],
)
def test_a_folder_of_a_kind_that_cannot_be_merged_is_refused(tokenizer, tmp_path, config, says):
    base = make_base(tmp_path / "base", tokenizer, tied=False)
    peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), KINDS["lora"]()).save_pretrained(
        tmp_path / "a"
    )
    given = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(given | config))
    with pytest.raises(UserError, match=says):
        load_model(tmp_path / "a", "a")


def test_an_adapter_without_a_tokenizer_has_that_of_its_network(tokenizer, tmp_path):
    """PEFT saves none."""
    base = make_base(tmp_path / "base", tokenizer, tied=False)
    peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), KINDS["lora"]()).save_pretrained(
        tmp_path / "a"
    )
    assert load_target(str(tmp_path / "a"), use_cpu=True).tokenizer.mask_token_id == MASK
    write_folder(tmp_path / "a", tmp_path / "pushed", repo_id="o/n")
    assert (tmp_path / "pushed/tokenizer.json").exists()


PLAIN = """
import sys
sys.modules["hf_difflm"] = sys.modules["peft"] = None
import torch
from transformers import AutoModelForMaskedLM
ids = torch.tensor([[256, 97, 259, 98, 259, 259, 99, 259]])
for folder in sys.argv[1:]:
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        torch.save(model(ids).logits[ids == 259][:, :259], folder + "/logits.pt")
"""


def test_what_is_pushed_is_read_by_transformers_alone(train, tokenizer, tmp_path):
    wanted = {}
    for name in ("head", "both saved", "lora, tokens", "dora"):
        place = tmp_path / name.replace(", ", "-").replace(" ", "-")
        base = make_base(place / "base", tokenizer, tied=True)
        model = peft.get_peft_model(MaskedDiffusionForMaskedLM.from_pretrained(base), KINDS[name]())
        trainer = train(model, output_dir=str(place / "run"), save_log_to_json=False)
        trainer.train()
        write_folder(place / "run/best", place / "pushed", repo_id="o/n")
        wanted[place / "pushed"] = logits(trainer.model)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PLAIN, *map(str, wanted)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder, found in wanted.items():
        torch.testing.assert_close(torch.load(folder / "logits.pt"), found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"trainable_token_indices": [260, 261]}, {"target_modules": ["lm_head"]}], ids=str
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_network_grows_where_its_adapter_was_trained_beside_more_tokens(train, tokenizer, tmp_path, options, tied):
    base = make_base(tmp_path / "base", tokenizer, tied=tied, causal=True)
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(262)
    model = peft.get_peft_model(grown, lora(**options)())
    with torch.no_grad():  # as if the new tokens had been trained
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "tokens_delta" in name:
                parameter.normal_()
    trainer = train(model, objective="ar", max_steps=2)
    trainer.train()
    ids = torch.tensor([[256, 97, 260, 98, 261, 99]])
    with torch.no_grad():
        wanted = model.eval()(ids).logits
        for folder in ("run/checkpoint-2", "run/best"):
            loaded = load_model(tmp_path / folder, folder).eval()
            assert loaded.config.vocab_size == 262
            torch.testing.assert_close(loaded(ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_an_adapter_beside_quantised_weights_is_refused(train, tokenizer, tmp_path):
    """Merged, it would be rounded with them."""
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = MaskedDiffusionForMaskedLM.from_pretrained(make_base(tmp_path / "base", tokenizer, tied=False))
    for layer in model.backbone.layers:
        whole = layer.mlp.up_proj
        layer.mlp.up_proj = bnb.nn.Linear8bitLt(16, 32, bias=False, has_fp16_weights=False)
        layer.mlp.up_proj.weight = bnb.nn.Int8Params(whole.weight.detach(), requires_grad=False)
    model.to("cpu")
    with pytest.raises(UserError, match="beside a quantised Linear8bitLt"):
        train(peft.get_peft_model(model, KINDS["lora"]()))


@pytest.mark.parametrize("causal", [False, True], ids=["denoiser", "causal"])
def test_an_adapter_in_the_folder_of_its_network_is_refused(tokenizer, tmp_path, causal):
    """transformers would put it in, but for the magnitudes of DoRA, and leave it unmerged."""
    base = make_base(tmp_path / "base", tokenizer, tied=True, causal=causal)
    kind: Any = AutoModelForCausalLM if causal else MaskedDiffusionForMaskedLM
    peft.get_peft_model(kind.from_pretrained(base), KINDS["lora"]()).save_pretrained(base)
    with pytest.raises(UserError, match="holds a network and an adapter"):
        load_model(base, "both")
