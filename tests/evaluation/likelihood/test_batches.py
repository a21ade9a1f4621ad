"""Every sequence of an evaluation set is scored once, and every rank runs the same number of batches."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.data import Collator
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches, data_unit
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.objectives import MaskedDiffusionObjective


def numbered(rows):
    """A collator that keeps only what a row is."""
    import torch

    ids = torch.tensor([[row["number"]] for row in rows])
    return {"input_ids": ids, "labels": ids.clone(), "num_bytes": torch.ones(len(rows), dtype=torch.long)}


@given(size=st.integers(1, 40), batch_size=st.integers(1, 9), world_size=st.integers(1, 5))
def test_each_sequence_counts_once_and_ranks_stay_in_step(size, batch_size, world_size):
    dataset = [{"number": i} for i in range(size)]
    ranks = [list(EvaluationBatches(dataset, numbered, batch_size, rank, world_size)) for rank in range(world_size)]
    shapes = [[batch["input_ids"].shape for batch in batches] for batches in ranks]
    assert all(shape == shapes[0] for shape in shapes)
    scored = []
    for batches in ranks:
        for batch in batches:
            assert (batch["input_ids"][:, 0] == batch["index"]).all()
            kept = batch["labels"][:, 0] != -100
            scored += batch["index"][kept].tolist()
            assert batch["num_bytes"].bool().equal(kept)
    assert sorted(scored) == list(range(size))


def test_a_hugging_face_data_set_gives_the_same_batches(tokenizer, train_rows):
    rows = train_rows(11, ragged=True)
    collator = Collator(tokenizer)
    plain = EvaluationBatches(rows, collator, 4, 1, 2)
    arrow = EvaluationBatches(datasets.Dataset.from_list(rows), collator, 4, 1, 2)
    for ours, theirs in zip(plain, arrow, strict=True):
        assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_find_what_one_finds(tiny_denoiser, tokenizer, train_rows, world_size):
    """The parts of each rank, gathered, are the numbers of one process; with a repeated sequence where they divide ill."""
    rows, collator, objective = train_rows(10, ragged=True), Collator(tokenizer), MaskedDiffusionObjective(259)
    for row in rows:
        row["num_bytes"] = len(row["input_ids"])
    model = tiny_denoiser()
    parts: list = []

    def collect(part):
        parts.extend(part)
        return list(parts)  # the last rank sees all of them

    for rank in range(world_size):
        batches = EvaluationBatches(rows, collator, 2, rank, world_size)
        together = evaluate_likelihood(model, objective, batches, len(rows), replicates=2, gather=collect)
    alone = evaluate_likelihood(model, objective, EvaluationBatches(rows, collator, 2), len(rows), replicates=2)
    assert together.nll == pytest.approx(alone.nll, rel=1e-6)
    assert together.nll_stderr == pytest.approx(alone.nll_stderr, rel=1e-3)
    assert (together.scored_tokens, together.num_bytes) == (alone.scored_tokens, alone.num_bytes)
    np.testing.assert_array_equal(together.unit_ids, alone.unit_ids)
    np.testing.assert_allclose(together.unit_nll, alone.unit_nll, rtol=1e-4)


def test_documents_are_the_unit_only_where_there_are_two():
    one = [{"input_ids": [0, 1, 2], "document_ids": [-1, 0, 0]}, {"input_ids": [0, 1, 2], "document_ids": [-1, 0, 0]}]
    two = [one[0], {"input_ids": [0, 1, 2], "document_ids": [-1, 0, 1]}]
    assert data_unit(one) == "blocks"
    assert data_unit(two) == "documents"
    assert data_unit([{"input_ids": [0, 1]}]) == "blocks"
