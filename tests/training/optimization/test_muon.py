"""Muon's update of matrices is torch's, AdamW's of all else is torch's, and both are one optimiser."""

from __future__ import annotations

import pytest
import torch

from hf_difflm.training.optimization import muon as module
from hf_difflm.training.optimization.muon import Muon, newton_schulz


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stepped(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, steps: int = 4) -> torch.Tensor:
    for step in range(steps):
        weight.grad = random(*weight.shape, seed=1 + step)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (6, 6)])
def test_a_matrix_moves_as_with_torchs_muon_bit_for_bit_in_its_precision(shape, monkeypatch):
    monkeypatch.setattr(module, "newton_schulz", lambda x, steps: newton_schulz(x, steps, torch.bfloat16))
    ours, theirs = (torch.nn.Parameter(random(*shape)) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "ns_steps": 4}
    found = stepped(Muon([{"params": [ours], "muon": True}], **settings), ours)
    expected = stepped(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings), theirs)
    assert torch.equal(found, expected)


def test_all_else_moves_as_with_torchs_adamw_bit_for_bit():
    ours, theirs = (torch.nn.Parameter(random(8, 4)) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}
    assert torch.equal(
        stepped(Muon([ours], **settings), ours), stepped(torch.optim.AdamW([theirs], **settings), theirs)
    )


def test_singular_values_become_one_and_vectors_stay_on_a_cpu_in_float32():
    matrix = random(12, 20)
    found = newton_schulz(matrix)
    assert found.dtype == torch.float32
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    size = (left.T @ found @ right.T).diagonal()
    torch.testing.assert_close(left @ size.diag() @ right, found, rtol=0, atol=1e-4)
    assert values.max() / values.min() > 3
    assert 0.65 < size.min() < size.max() < 1.25
    assert newton_schulz(torch.zeros(3, 4)).abs().max() == 0


@pytest.mark.parametrize("shape", [(5, 8, 4), (5, 4, 8), (2, 3, 4, 4)])
def test_a_stack_is_orthogonalised_matrix_by_matrix_and_moves_by_its_matrices_size(shape):
    stack = random(*shape)
    each = torch.stack([newton_schulz(matrix) for matrix in stack.flatten(0, -3)]).view(shape)
    torch.testing.assert_close(newton_schulz(stack), each, rtol=1e-4, atol=1e-5)
    whole = torch.nn.Parameter(stack.clone())
    apart = [torch.nn.Parameter(matrix.clone()) for matrix in stack.flatten(0, -3)]
    gradients = random(*shape, seed=5)
    whole.grad = gradients
    for weight, gradient in zip(apart, gradients.flatten(0, -3), strict=True):
        weight.grad = gradient.clone()
    Muon([{"params": [whole], "muon": True}], lr=0.1).step()
    Muon([{"params": apart, "muon": True}], lr=0.1).step()
    torch.testing.assert_close(
        whole.detach().flatten(0, -3), torch.stack([w.detach() for w in apart]), rtol=1e-4, atol=1e-5
    )


def test_a_matrix_that_is_stored_transposed_moves_alike():
    weight, other = torch.nn.Parameter(random(6, 9)), torch.nn.Parameter(random(6, 9).T.clone())
    weight.grad, other.grad = random(6, 9, seed=1), random(6, 9, seed=1).T.clone()
    Muon([{"params": [weight, other], "muon": True}], lr=0.1, weight_decay=0.2).step()
    torch.testing.assert_close(weight.detach(), other.detach().T, rtol=1e-5, atol=1e-6)


def test_a_schedule_moves_both_rates_and_a_saved_state_goes_on_bit_equal():
    def make():
        matrix, rest = torch.nn.Parameter(random(4, 6)), torch.nn.Parameter(random(4, seed=9))
        optimizer = Muon([{"params": [matrix], "muon": True, "lr": 0.1}, {"params": [rest]}], lr=0.04)
        return matrix, rest, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def train(matrix, rest, optimizer, schedule, steps):
        for step in steps:
            matrix.grad, rest.grad = random(4, 6, seed=step), random(4, seed=20 + step)
            optimizer.step()
            schedule.step()

    whole = make()
    train(*whole, range(6))
    first = make()
    train(*first, range(3))
    second = make()
    for ours, theirs in zip(second, first, strict=True):
        ours.load_state_dict(theirs.state_dict()) if hasattr(ours, "load_state_dict") else ours.data.copy_(theirs)
    assert second[2].param_groups[0]["muon"] is True
    assert second[2].adamw_learning_rate == pytest.approx(0.01)
    train(*second, range(3, 6))
    assert torch.equal(whole[0], second[0])
    assert torch.equal(whole[1], second[1])


def test_a_group_that_comes_later_is_adamws_and_a_vector_is_no_matrix():
    matrix, late = torch.nn.Parameter(random(4, 6)), torch.nn.Parameter(random(4, 6))
    optimizer = Muon([{"params": [matrix], "muon": True, "lr": 0.1}], lr=0.04)
    optimizer.add_param_group({"params": [late], "weight_decay": 0.0})
    matrix.grad, late.grad = random(4, 6), random(4, 6)
    optimizer.step()
    assert optimizer.state[matrix].keys() == {"momentum_buffer"}
    assert "exp_avg" in optimizer.state[late]
    assert optimizer.adamw_learning_rate == 0.04
    with pytest.raises(ValueError, match=r"Muon is for matrices, and \(4,\) is the shape of none"):
        Muon([{"params": [torch.nn.Parameter(random(4))], "muon": True}])
    assert optimizer.flops() == 5 * (4 * 4 * 4 * 6 + 2 * 4**3)
