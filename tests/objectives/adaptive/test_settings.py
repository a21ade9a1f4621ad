"""Settings that make no sense are named, and what was learned is saved beside the model and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.objectives import (
    AdaptiveMaskingObjective,
    AdaptiveSettings,
    MaskedDiffusionObjective,
    adaptive_objective,
)
from hf_difflm.objectives.adaptive.importance_file import IMPORTANCE_FILE, load_importance
from hf_difflm.objectives.adaptive.importance_values import ImportanceReader

COUNTS = np.random.default_rng(0).integers(0, 1000, 260)
IDS = torch.tensor([[256, 97, 98, 99, 97]])


def spoken(model, settings: AdaptiveSettings, seed: int = 0) -> AdaptiveMaskingObjective:
    objective = adaptive_objective(model.config, MaskedDiffusionObjective(259), settings, COUNTS, seed)
    for parameter in [] if objective.networks is None else objective.networks.parameters():
        torch.nn.init.normal_(parameter)
    return objective


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"importance": "learned"}, "did you mean 'learned_only'"),
        ({"masking": "proportionl"}, "did you mean 'proportional'"),
        ({"temperature": 0.0}, "above 0, got 0"),
        ({"temperature": float("nan")}, "above 0, got nan"),
        ({"position_bias": float("inf")}, "finite"),
        ({"loss_weight": -1.0}, "got -1"),
        ({"curriculum": "halves"}, "halves"),
        ({"importance": "none", "curriculum": "thirds"}, "importance is none"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(wrong, said):
    with pytest.raises(UserError, match=said):
        AdaptiveSettings(**wrong)


def test_what_is_needed_and_missing_is_named():
    with pytest.raises(ValueError, match="estimator"):
        ImportanceReader(AdaptiveSettings("learned_only"))
    with pytest.raises(ValueError, match="token counts"):
        ImportanceReader(AdaptiveSettings("frequency_only"))


@pytest.mark.parametrize("importance", ["full", "learned_only", "frequency_only"])
def test_importance_is_read_alike_after_saving_and_loading(tiny_denoiser, tmp_path: Path, importance):
    model = tiny_denoiser()
    objective = spoken(model, AdaptiveSettings(importance, "inverse", temperature=2.0))
    model.save_pretrained(tmp_path)
    objective.save(tmp_path)
    again = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path)  # which needs no such file, nor minds it
    reader, settings = load_importance(tmp_path)
    assert settings == objective.settings
    batch = {"input_ids": IDS, "labels": IDS}
    with torch.no_grad():
        one, other = objective.reader(model, batch, "cpu"), reader(again, batch, "cpu")
    np.testing.assert_array_equal(one.values_BL, other.values_BL)
    assert one.values_BL.std() > 0


def test_a_resumed_run_has_its_networks_back(tiny_denoiser, tmp_path: Path):
    model = tiny_denoiser()
    first, second = (spoken(model, AdaptiveSettings("full"), seed) for seed in (0, 1))
    first.save(tmp_path)
    second.load(tmp_path)
    assert set(first.networks) == {"importance", "rate"}
    for one, other in zip(first.networks.parameters(), second.networks.parameters(), strict=True):
        assert torch.equal(one, other)


def test_nothing_is_written_where_nothing_is_learned_or_counted(tiny_denoiser, tmp_path: Path):
    model = tiny_denoiser()
    objective = adaptive_objective(model.config, MaskedDiffusionObjective(259), AdaptiveSettings("none"))
    objective.save(tmp_path)
    objective.load(tmp_path)
    assert not (tmp_path / IMPORTANCE_FILE).exists()
    with pytest.raises(UserError, match=IMPORTANCE_FILE):
        load_importance(tmp_path)


def test_networks_of_other_settings_are_refused(tiny_denoiser, tmp_path: Path):
    model = tiny_denoiser()
    spoken(model, AdaptiveSettings("full", "time_only")).save(tmp_path)  # no rate head
    with pytest.raises(UserError, match="other sizes or settings"):
        spoken(model, AdaptiveSettings("full")).load(tmp_path)


def test_the_same_seed_gives_the_same_networks(tiny_denoiser):
    model = tiny_denoiser()
    one, two, other = (
        torch.cat([p.flatten() for p in made.networks.parameters()])
        for made in (
            adaptive_objective(
                model.config, MaskedDiffusionObjective(259), AdaptiveSettings("learned_only"), None, seed
            )
            for seed in (3, 3, 4)
        )
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
