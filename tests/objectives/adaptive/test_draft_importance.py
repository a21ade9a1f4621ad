"""The importance of a draft: what the estimator says of the tokens that are there, to a power."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.objectives.adaptive.draft_importance import DraftImportance
from hf_difflm.objectives.adaptive.importance import ImportanceEstimator
from hf_difflm.objectives.adaptive.importance_values import ImportanceReader
from hf_difflm.objectives.adaptive.settings import AdaptiveSettings

MASK = 8


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    backbone = LlamaConfig(
        vocab_size=9, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=MASK)).eval()


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(1)
    estimator = ImportanceEstimator(32, 2).eval()
    torch.nn.init.normal_(estimator.score.weight, std=2.0)
    return ImportanceReader(AdaptiveSettings(importance="full"), estimator, np.arange(9))


def test_it_is_the_readers_own_number_to_a_power(model, reader):
    draft_RL = torch.tensor([[1, 2, 3, 4], [4, 3, 3, 0]])
    plain_RL = reader(model, {"input_ids": draft_RL}, "cpu").values_BL
    assert np.ptp(plain_RL) > 0.1
    for weight in (0.0, 1.0, 2.5):
        np.testing.assert_allclose(DraftImportance(reader, model, weight)(draft_RL).numpy(), plain_RL**weight)


def test_padding_and_what_comes_later_is_not_read(model, reader):
    weigh = DraftImportance(reader, model)
    text = [1, 2, 3, 4]
    alone_1L = weigh(torch.tensor([text]))
    padded_1L = weigh(torch.tensor([[MASK, MASK, *text, MASK]]))
    torch.testing.assert_close(padded_1L[:, 2:6], alone_1L)


def test_a_row_counts_the_same_alone_and_padded_in_a_batch(model, reader):
    """All through ``generate``: texts of different lengths, blocks, and a draft at every step."""
    prompts = [[1, 2, 3, 4, 5], [6]]
    ids_BP = torch.tensor([prompts[0], [0, 0, 0, 0, *prompts[1]]])
    attention_BP = torch.tensor([[1] * 5, [0, 0, 0, 0, 1]])
    settings = {
        "sampler": "uncertainty",
        "importance": DraftImportance(reader, model, 3.0),
        "max_new_tokens": 8,
        "max_denoising_steps": 8,
        "block_length": 4,
        "temperature": 0,
        "return_dict_in_generate": True,
    }
    together = model.generate(ids_BP, attention_mask=attention_BP, **settings)
    for row, prompt in enumerate(prompts):
        alone = model.generate(torch.tensor([prompt]), **settings)
        assert torch.equal(together.sequences[row, -8:], alone.sequences[0, -8:])
        assert torch.equal(together.reveal_steps[row, -8:], alone.reveal_steps[0, -8:])
    without = model.generate(ids_BP, attention_mask=attention_BP, **settings | {"importance": None})
    assert not torch.equal(without.reveal_steps, together.reveal_steps)


def test_a_wrong_weight_and_a_run_without_importance_are_one_sentence(model, reader):
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="importance_weight must be at least 0"):
            DraftImportance(reader, model, weight)
    nothing = ImportanceReader(AdaptiveSettings(importance="none"))
    with pytest.raises(UserError, match="trained with importance none"):
        DraftImportance(nothing, model)
