"""A head that is more than a weight is called: adapters, quantisation, offloading, hooks and parametrisations all count."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload
from torch import nn
from torch.nn.utils import parametrizations, prune
from transformers import LlamaConfig

from hf_difflm.errors import UserError
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.loading import load_model
from hf_difflm.models.masked_diffusion import modeling_masked_diffusion
from hf_difflm.objectives import MaskedDiffusionObjective
from hf_difflm.objectives.adaptive.importance import clean_embeddings

pytestmark = pytest.mark.borders
VOCABULARY, MASK = 288, 287  # bitsandbytes wants multiples of 32, and a width of 64


class Doubled(nn.Linear):
    """A layer of somebody's own."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(hidden)


def subclass(model: Any) -> Any:
    model.lm_head.__class__ = Doubled
    return model


def output_hook(model: Any) -> Any:
    model.lm_head.register_forward_hook(lambda module, args, output: 2 * output)
    return model


def input_hook(model: Any) -> Any:
    model.lm_head.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return model


def own_forward(model: Any) -> Any:
    plain = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 2 * plain(hidden)
    return model


def parametrised(model: Any) -> Any:
    parametrizations.weight_norm(model.lm_head)
    with torch.no_grad():
        model.lm_head.parametrizations.weight.original0.mul_(2)
    return model


def pruned(model: Any) -> Any:
    """The weight is made anew before each call."""
    prune.random_unstructured(model.lm_head, "weight", amount=0.5)
    with torch.no_grad():
        model.lm_head.weight_orig.mul_(2)
    return model


def offloaded(model: Any) -> Any:
    cpu_offload(model.lm_head, execution_device=torch.device("cpu"))
    return model


def quantised(model: Any) -> Any:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def four_bits(model: Any) -> Any:
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    head = bnb.nn.Linear4bit(64, VOCABULARY, bias=False, compute_dtype=torch.float32)
    head.weight = bnb.nn.Params4bit(model.lm_head.weight.detach(), requires_grad=False)
    model.lm_head = head.to("cpu")
    return model


def eight_bits(model: Any) -> Any:
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    head = bnb.nn.Linear8bitLt(64, VOCABULARY, bias=False, has_fp16_weights=False)
    head.weight = bnb.nn.Int8Params(model.lm_head.weight.detach(), requires_grad=False)
    model.lm_head = head.to("cpu")
    return model


def _by_peft(model: Any, **options: Any) -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'hf_difflm[peft]')")
    options = {"target_modules": ["lm_head"], "init_lora_weights": False, **options}
    return peft.get_peft_model(model, peft.LoraConfig(r=2, **options))


def lora(model: Any) -> Any:
    return _by_peft(model)


def dora(model: Any) -> Any:
    return _by_peft(model, use_dora=True)


def whole_head_saved(model: Any) -> Any:
    model = _by_peft(model, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save.default.weight.mul_(2)
    return model


def single_tokens(model: Any) -> Any:
    model = _by_peft(model, target_modules=["q_proj"], trainable_token_indices={"lm_head": [97, 98]})
    with torch.no_grad():
        model.get_base_model().lm_head.token_adapter.trainable_tokens_delta.default.mul_(2)
    return model


def tied_tokens(model: Any) -> Any:
    """Of the embedding, and so of the head that shares its weight."""
    model.tie_weights()
    model = _by_peft(model, target_modules=["q_proj"], trainable_token_indices=[97, 98])
    with torch.no_grad():
        model.get_base_model().backbone.embed_tokens.token_adapter.trainable_tokens_delta.default.mul_(2)
    return model


KINDS: dict[str, Callable[[Any], Any]] = {
    kind.__name__: kind
    for kind in (
        subclass,
        output_hook,
        input_hook,
        own_forward,
        parametrised,
        pruned,
        offloaded,
        quantised,
        four_bits,
        eight_bits,
        lora,
        dora,
        whole_head_saved,
        single_tokens,
        tied_tokens,
    )
}
FROZEN = ("offloaded", "quantised", "four_bits", "eight_bits")


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean_BL = torch.randint(90, 110, (4, 10), generator=generator)
    hidden_BL = torch.rand(4, 10, generator=generator) < 0.5
    return clean_BL.masked_fill(hidden_BL, MASK), clean_BL.masked_fill(~hidden_BL, -100)


def denoiser(tied: bool = False) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.1, **sizes)
    config = MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=MASK, tie_word_embeddings=tied)
    return MaskedDiffusionForMaskedLM(config)


def core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def by_hand(model: Any, ids_BL: torch.Tensor) -> torch.Tensor:
    """(B, L, V) logits of the head as it is called, without the mask."""
    logits_BLV = core(model).lm_head(core(model).backbone(ids_BL).last_hidden_state)
    return torch.cat([logits_BLV[..., :MASK], torch.full_like(logits_BLV[..., MASK:], float("-inf"))], -1)


def made(kind: str) -> Any:
    model = KINDS[kind](denoiser(kind == "tied_tokens").eval()).eval()
    plain = denoiser(kind == "tied_tokens").eval()
    ids_1L = torch.full((1, 4), MASK)
    same = torch.allclose(by_hand(model, ids_1L), by_hand(plain, ids_1L), rtol=1e-5)
    assert same == (kind == "offloaded")  # else the kind could not be told from a head that is read
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_logits_loss_gradients_bound_and_samples_are_those_of_the_head_that_is_called(batch, kind):
    model = made(kind)
    ids_BL, labels_BL = batch
    wanted_BLV = by_hand(model, ids_BL)
    hidden_BL = labels_BL != -100
    nll_N = F.cross_entropy(wanted_BLV[hidden_BL], labels_BL[hidden_BL], reduction="none")

    # Dynamic quantisation scales activations by the largest of the call: it depends on the rows beside.
    near = {"rtol": 5e-3, "atol": 1e-3} if kind == "quantised" else {"rtol": 1e-5, "atol": 1e-6}

    torch.testing.assert_close(model(ids_BL).logits[hidden_BL], wanted_BLV[hidden_BL], **near)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and not p.is_meta}
    assert any("lm_head" in name for name in trained) == (kind not in (*FROZEN, "tied_tokens"))
    if kind == "quantised":
        trained = {}  # no gradient goes through it
    wanted = torch.autograd.grad(nll_N.mean(), list(trained.values()), allow_unused=True) if trained else ()
    for rows in (0, 3, None):
        core(model).head_chunk_rows = rows
        output = model(ids_BL, labels=labels_BL, output_correct=True)
        torch.testing.assert_close(output.token_nll, nll_N.detach(), **near)
        assert torch.equal(output.token_correct, wanted_BLV.argmax(-1)[hidden_BL] == labels_BL[hidden_BL])
        got = torch.autograd.grad(output.loss, list(trained.values()), allow_unused=True) if trained else ()
        for name, ours, theirs in zip(trained, got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)

    clean_BL = ids_BL.where(~hidden_BL, labels_BL)
    rows = [{"input_ids": clean_BL, "labels": clean_BL, "index": torch.arange(4)}]
    bounds = []
    for network in (model, ByHand(model)):
        found = evaluate_likelihood(
            network, MaskedDiffusionObjective(MASK).for_evaluation(), rows, 4, replicates=4, seed=0
        )
        bounds.append(found.nll)
    assert bounds[0] == pytest.approx(bounds[1], rel=near["rtol"])

    prompt_1L = torch.tensor([[97, MASK, 98, MASK, MASK, 99]])
    torch.manual_seed(0)
    ours_1L = core(model).generate(prompt_1L, max_new_tokens=0, max_denoising_steps=1, do_sample=False)
    likeliest_1L = by_hand(model, prompt_1L).argmax(-1)
    assert torch.equal(ours_1L, prompt_1L.where(prompt_1L != MASK, likeliest_1L))


class ByHand(nn.Module):
    """A denoiser that knows of no path but calling its head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def forward(
        self, input_ids, attention_mask=None, labels=None, loss_weights=None, positions=None, output_correct=False
    ):
        logits_NV = by_hand(self.inner, input_ids).flatten(0, 1)[positions]
        labels_N = labels.flatten()[positions]
        nll_N = F.cross_entropy(logits_NV, labels_N, reduction="none")
        loss = (nll_N * loss_weights.expand(input_ids.shape).flatten()[positions]).sum()
        correct_N = logits_NV.argmax(-1) == labels_N if output_correct else None
        return modeling_masked_diffusion.MaskedDiffusionOutput(
            loss=loss, token_nll=nll_N.detach(), token_correct=correct_N
        )


def test_hooks_see_every_call(batch):
    model, seen = denoiser(), []
    ids_BL, labels_BL = batch
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    model(ids_BL)
    model(ids_BL, labels=labels_BL)
    model(ids_BL, positions=torch.tensor([2, 31]))
    model.generate(ids_BL[:1], max_new_tokens=0, max_denoising_steps=1)
    assert seen[:3] == [40, int((labels_BL != -100).sum()), 2]
    assert len(seen) == 4


def test_hooks_on_all_modules_and_on_gradients_are_hooks_on_the_head(batch):
    model, seen = denoiser(), []
    ids_BL, labels_BL = batch
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    model(ids_BL, labels=labels_BL)
    handle.remove()
    assert model.lm_head in seen
    (before,) = torch.autograd.grad(model(ids_BL, labels=labels_BL).loss, [model.backbone.norm.weight])
    model.lm_head.register_full_backward_hook(lambda module, inputs, outputs: (3 * inputs[0],))
    (after,) = torch.autograd.grad(model(ids_BL, labels=labels_BL).loss, [model.backbone.norm.weight])
    torch.testing.assert_close(after, 3 * before)


def test_what_a_hook_keeps_of_the_head_is_not_written_over(batch):
    model, kept = denoiser(), []
    model.lm_head.register_forward_hook(lambda module, args, output: kept.append(output))
    model(batch[0])
    assert kept[0].isfinite().all()


def test_a_plain_head_is_read_and_takes_the_chunks(batch, monkeypatch):
    """What makes the labelled positions cheap stays: see ``benchmarks/lm_head.py``."""
    model, called, chunks = denoiser(), [], []
    model.head_chunk_rows = 3
    plain, chunked = nn.Linear.forward, modeling_masked_diffusion.chunked_cross_entropy
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: (called.append(self), plain(self, x))[1])
    monkeypatch.setattr(
        modeling_masked_diffusion, "chunked_cross_entropy", lambda *args: (chunks.append(args[5]), chunked(*args))[1]
    )
    ids_BL, labels_BL = batch
    model(ids_BL, labels=labels_BL).loss.backward()
    model(ids_BL)
    assert called
    assert not any(module is model.lm_head for module in called)
    assert chunks == [3]


def test_an_offloaded_head_by_device_map(batch, tmp_path):
    denoiser().save_pretrained(tmp_path / "model")
    whole = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "model")
    ids_BL, labels_BL = batch
    for device_map in ({"backbone": "cpu", "lm_head": "disk"}, {"backbone": "disk", "lm_head": "cpu"}):
        model = MaskedDiffusionForMaskedLM.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "offload")
        )
        assert any(p.is_meta for p in model.parameters())
        torch.testing.assert_close(model(ids_BL).logits, whole(ids_BL).logits)
        torch.testing.assert_close(model(ids_BL, labels=labels_BL).token_nll, whole(ids_BL, labels=labels_BL).token_nll)
        written = [
            network.generate(ids_BL[:1], max_new_tokens=2, max_denoising_steps=4, seed=1, do_sample=True)
            for network in (model, whole)
        ]
        assert torch.equal(*written)


@pytest.mark.parametrize("kind", ["lora", "tokens", "offloaded"])
def test_an_embedding_that_is_more_than_a_weight_is_asked_for_its_rows(batch, kind):
    """By the importance estimator, which reads the embeddings of the clean text."""
    model = denoiser()
    ids_BL = batch[0]
    if kind == "lora":
        model = _by_peft(model, target_modules=["embed_tokens"])
        with torch.no_grad():
            model.get_base_model().backbone.embed_tokens.lora_embedding_A.default.normal_()
            model.get_base_model().backbone.embed_tokens.lora_embedding_B.default.normal_()
    elif kind == "tokens":
        model = _by_peft(model, target_modules=["q_proj"], trainable_token_indices=[97, 98])
        with torch.no_grad():
            model.get_base_model().backbone.embed_tokens.token_adapter.trainable_tokens_delta.default.mul_(2)
    else:
        cpu_offload(model.backbone.embed_tokens, execution_device=torch.device("cpu"))
    wanted_BLD = core(model).backbone.embed_tokens(ids_BL)
    found_BLD = clean_embeddings(model, ids_BL)
    torch.testing.assert_close(found_BLD, wanted_BLD)
    assert not found_BLD.requires_grad


def test_a_quantised_folder_without_its_package_is_a_sentence(tmp_path):
    denoiser().save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}  # its package is none that tests have
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"cannot be loaded as a masked diffusion model .* optimum"):
        load_model(tmp_path / "model", "it")
