"""Liger's kernels: refused in a sentence where they cannot run; where installed, they are put into the backbone."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama import modeling_llama
from transformers.utils import is_liger_kernel_available

from hf_difflm.errors import UserError
from hf_difflm.training.declarations.argument_checks import check_values
from hf_difflm.training.launch.liger import apply_liger, check_liger, patch_backbone

installed = pytest.mark.skipif(not is_liger_kernel_available(), reason="liger-kernel is not installed")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def stock_layers_again(monkeypatch):
    """Liger changes the layers of Llamas that are built later, too; other tests build some."""
    for name in ("LlamaRMSNorm", "LlamaMLP", "apply_rotary_pos_emb"):
        monkeypatch.setattr(modeling_llama, name, getattr(modeling_llama, name))


def test_on_a_cpu_it_is_refused_in_a_sentence(tiny_denoiser):
    with pytest.raises(UserError, match=r"use_liger_kernel is set, but .* GPUs only; leave it out on a CPU"):
        check_values({"use_liger_kernel": True, "use_cpu": True})
    with pytest.raises(UserError, match="use_liger_kernel is set"):
        apply_liger(tiny_denoiser(), None, CPU)


def test_the_trainer_refuses_it_before_the_first_step(make_diffusion_trainer):
    trainer = make_diffusion_trainer(use_liger_kernel=True, max_steps=1)
    with pytest.raises(UserError, match="use_liger_kernel is set"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("installed_here", [is_liger_kernel_available() and torch.cuda.is_available()])
def test_the_trainer_takes_the_kernels_that_are_asked_for(make_diffusion_trainer, installed_here):
    asked = {"use_liger_kernel": True, "liger_kernel_config": {"rms_norm": False}, "max_steps": 1}
    trainer = make_diffusion_trainer(use_cpu=not installed_here, **asked)
    if not installed_here:
        with pytest.raises(UserError, match="use_liger_kernel is set"):
            trainer.train()
        return
    trainer.train()
    kinds = {module._get_name() for module in trainer.model.backbone.modules()}
    assert "LigerSwiGLUMLP" in kinds
    assert "LigerRMSNorm" not in kinds


@pytest.mark.skipif(is_liger_kernel_available(), reason="liger-kernel is installed")
def test_without_the_package_it_says_what_to_install():
    with pytest.raises(UserError, match=r"needs the package liger-kernel .*\(pip install liger-kernel\)"):
        check_liger(on_cpu=False)


@installed
def test_the_backbone_gets_the_kernels_and_keeps_names_and_values(tiny_denoiser):
    model, plain = tiny_denoiser(), tiny_denoiser()
    forward, backbone_forward = model.forward.__func__, model.backbone.forward.__func__
    patch_backbone(model, {})
    kinds = {module._get_name() for module in model.backbone.modules()}
    assert {"LigerRMSNorm", "LigerSwiGLUMLP"} <= kinds
    assert (model.forward.__func__, model.backbone.forward.__func__) == (forward, backbone_forward)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())


@installed
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"fused_linear_cross_entropy": True},
            "asks for fused_linear_cross_entropy, which is for the head of a causal LM",
        ),
        ({"rms_nrom": True}, "a key 'rms_nrom' that Liger does not have for llama; did you mean 'rms_norm'"),
    ],
)
def test_a_kernel_that_is_not_for_it_is_told_in_a_sentence(config, sentence, tiny_denoiser):
    with pytest.raises(UserError, match=sentence):
        patch_backbone(tiny_denoiser(), config)


@installed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's kernels need a GPU")
def test_the_loss_and_its_gradient_are_the_same(tiny_denoiser):
    ids_BL = torch.randint(97, 123, (4, 32), generator=torch.Generator().manual_seed(0))
    labels_BL = ids_BL.masked_fill(torch.arange(32) % 2 == 0, -100).cuda()
    ids_BL[:, 1::2] = 259
    results = []
    for patch in (False, True):
        model = tiny_denoiser().cuda()
        if patch:
            apply_liger(model, None, torch.device("cuda"))
        output = model(ids_BL.cuda(), labels=labels_BL)
        output.loss.backward()
        results.append((output.loss.detach(), *(parameter.grad for parameter in model.parameters())))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)
