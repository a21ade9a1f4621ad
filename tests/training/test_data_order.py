"""The order of the training sequences: a function of seed and epoch, in whole optimiser batches."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.training.data_order import EpochSampler


def order(size: int, batch: int, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = EpochSampler(size, batch, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


@given(size=st.integers(1, 300), batch=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 100))
def test_an_epoch_takes_each_sequence_once_less_the_incomplete_batch(size, batch, seed, epoch):
    taken = order(size, batch, seed, epoch)
    assert len(taken) == size - size % batch
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(range(size))


def test_epochs_and_seeds_have_their_own_orders():
    assert order(50, 1) == order(50, 1)
    assert len({tuple(order(50, 1, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_what_an_epoch_drops_another_takes():
    assert {i for epoch in range(20) for i in order(10, 4, epoch=epoch)} == set(range(10))


def test_no_global_generator_is_read_or_moved():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = order(100, 1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())
    torch.manual_seed(1)
    assert order(100, 1) == first


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(8, 1), (4, 2), (1, 8)])
def test_the_trainer_sees_each_optimiser_batch_in_this_order_epoch_after_epoch(
    make_diffusion_trainer, train_rows, micro_batch, accumulation
):
    rows = train_rows(20, length=6)
    for number, row in enumerate(rows):
        row["input_ids"][1] = number  # so that it can be told
    trainer = make_diffusion_trainer(
        train=rows,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_steps=6,
        data_seed=3,
        save_log_to_json=False,
    )
    batches: list[list[int]] = []
    fetch = trainer.get_batch_samples

    def watch(*args):
        micro_batches, scored = fetch(*args)
        batches.append([int(i) for batch in micro_batches for i in batch["input_ids"][:, 1]])
        return micro_batches, scored

    trainer.get_batch_samples = watch
    trainer.train()
    # 20 sequences are 2 optimiser batches of 8 an epoch; 4 are left out, others each time.
    expected = np.array([order(20, 8, 3, epoch) for epoch in range(3)]).reshape(6, 8)
    assert batches == expected.tolist()
