"""The LM head runs where there is a label, and gives there what the full head would."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion import labelled_head

MASK = 259


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 100, (4, 10), generator=generator)
    hidden = torch.rand(4, 10, generator=generator) < 0.4
    return clean.masked_fill(hidden, MASK), clean.masked_fill(~hidden, -100)


def head_rows(model) -> list[int]:
    """Fills up with the number of positions the head ran at."""
    rows: list[int] = []
    plain = model._head
    model._head = lambda hidden_ND, *more: (rows.append(len(hidden_ND)), plain(hidden_ND, *more))[1]
    return rows


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_loss_and_gradients_are_those_of_the_full_head(tiny_denoiser, batch, tied):
    ids, labels = batch
    weights = torch.rand(4, 1) + 0.5
    model = tiny_denoiser(tie_word_embeddings=tied)
    output = model(ids, labels=labels, loss_weights=weights)
    output.loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(ids).logits
    hidden = labels != -100
    nll = F.cross_entropy(logits[hidden], labels[hidden], reduction="none")
    loss = (nll * weights.expand(4, 10)[hidden]).sum()
    loss.backward()
    torch.testing.assert_close(output.loss, loss)
    torch.testing.assert_close(output.token_nll, nll.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_head_runs_at_labelled_positions_only(tiny_denoiser, batch):
    ids, labels = batch
    model = tiny_denoiser()
    rows = head_rows(model)
    model(ids, labels=labels)
    model(ids, positions=torch.tensor([2, 31]))
    model(ids)
    assert rows == [int((labels != -100).sum()), 2, 40]


def test_positions_known_to_the_caller_give_the_same(tiny_denoiser, batch):
    ids, labels = batch
    model = tiny_denoiser()
    positions = (labels.flatten() != -100).nonzero().squeeze(-1)
    known, found = model(ids, labels=labels, positions=positions), model(ids, labels=labels)
    assert torch.equal(known.loss, found.loss)
    assert torch.equal(known.token_nll, found.token_nll)
    assert torch.equal(model(ids, positions=positions).logits, model(ids).logits.flatten(0, 1)[positions])


def test_with_labels_there_are_no_logits_and_without_them_no_loss(tiny_denoiser, batch):
    ids, labels = batch
    model = tiny_denoiser()
    assert model(ids, labels=labels).logits is None
    assert model(ids).loss is None
    assert model(ids).logits.shape == (4, 10, 260)


def test_the_row_of_the_mask_in_an_untied_head_gets_no_gradient(tiny_denoiser, batch):
    ids, labels = batch
    model = tiny_denoiser(tie_word_embeddings=False)
    model(ids, labels=labels).loss.backward()
    gradient = model.lm_head.weight.grad
    assert not gradient[MASK].any()
    assert gradient[:MASK].abs().sum(-1).min() > 0  # every other row is pushed down or up


def test_a_labelled_position_that_is_not_masked_is_copied_and_costs_nothing(tiny_denoiser, batch):
    ids, labels = batch
    everywhere = ids.where(ids != MASK, labels)
    model = tiny_denoiser()
    output = model(ids, labels=everywhere, output_correct=True)
    revealed = (ids != MASK).flatten()
    assert not output.token_nll[revealed].any()
    assert output.token_correct[revealed].all()
    torch.testing.assert_close(output.token_nll[~revealed], model(ids, labels=labels).token_nll)


def test_without_weights_the_loss_is_the_mean_over_labels(tiny_denoiser, batch):
    ids, labels = batch
    output = tiny_denoiser()(ids, labels=labels)
    torch.testing.assert_close(output.loss.detach(), output.token_nll.mean())


def test_correct_means_that_the_label_is_likeliest(tiny_denoiser, batch):
    ids, labels = batch
    model = tiny_denoiser()
    assert model(ids, labels=labels).token_correct is None
    likeliest = model(ids).logits.argmax(-1).where(labels != -100, -100)
    likeliest[0] = labels[0]
    correct = model(ids, labels=likeliest, output_correct=True).token_correct
    in_first_row = int((labels[0] != -100).sum())
    assert correct[in_first_row:].all()
    assert not correct[:in_first_row].all()


def test_no_label_at_all_gives_a_zero_that_can_go_backward(tiny_denoiser, batch):
    model = tiny_denoiser()
    output = model(batch[0], labels=torch.full_like(batch[0], -100))
    output.loss.backward()
    assert float(output.loss.detach()) == 0.0
    assert all(p.grad is not None for p in model.parameters())


def test_hidden_states_and_attentions_are_passed_on(tiny_denoiser, batch):
    model = tiny_denoiser(attn_implementation="eager")
    output = model(batch[0], output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3
    assert output.attentions[0].shape == (4, 2, 10, 10)
    assert output.attentions[0].triu(1).any()  # both directions


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_few_rows_by_a_large_vocabulary_are_the_same_the_other_way_round(bias):
    config = MaskedDiffusionConfig(
        backbone_config={
            "model_type": "llama",
            "vocab_size": 2**17,
            "hidden_size": 32,
            "num_hidden_layers": 0,
            "num_attention_heads": 2,
        },
        mask_token_id=7,
        head_bias=bias,
    )
    model = MaskedDiffusionForMaskedLM(config).eval()
    if bias:
        model.lm_head.bias.normal_()
    for rows, is_turned in ((1, False), (2, True), (8, True), (9, False)):
        hidden_ND = torch.randn(rows, 32)
        assert (labelled_head.product_of_few_rows(hidden_ND, model.lm_head.weight) is not None) == is_turned
        found_NV = model._head(hidden_ND)
        expected_NV = model.lm_head(hidden_ND)
        expected_NV[:, 7] = float("-inf")
        torch.testing.assert_close(found_NV, expected_NV)
        assert found_NV.is_contiguous()
    with torch.enable_grad():
        assert labelled_head.product_of_few_rows(torch.randn(2, 32), model.lm_head.weight) is None
