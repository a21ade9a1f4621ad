"""What ``--samplers`` means, which numbers of steps are tried, and what is refused."""

from __future__ import annotations

import pytest

from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.quality.sampler_grid import SamplerChoice, read_samplers, trials


def test_parameters_are_numbers_lists_and_words():
    assert read_samplers(
        "ddpm_cache, remdm:eta=0.1,uncertainty:measure=margin:budget=1,entropy:reveal-schedule=[1,2]"
    ) == [
        SamplerChoice("ddpm_cache"),
        SamplerChoice("remdm", {"eta": 0.1}),
        SamplerChoice("uncertainty", {"measure": "margin", "budget": 1}),
        SamplerChoice("entropy", {"reveal_schedule": [1, 2]}),
    ]


def test_what_says_itself_how_many_tokens_a_step_reveals_is_tried_once():
    choices = read_samplers(
        "remdm:eta=0,entropy_bounded:bound=1,confidence_threshold,uncertainty,uncertainty:budget=1,first_hitting,"
        "first_hitting:tokens_per_step=2"
    )
    found = [(choice.name, most, steps) for choice, most, steps in trials(choices, [4, 8], 24)]
    assert found == [
        ("remdm", 4, 4),
        ("remdm", 8, 8),
        ("entropy_bounded", 24, None),
        ("confidence_threshold", 24, None),
        ("uncertainty", 4, 4),
        ("uncertainty", 8, 8),
        ("uncertainty", 24, None),
        ("first_hitting", 4, 4),
        ("first_hitting", 8, 8),
        ("first_hitting", 24, None),
    ]


def test_the_weight_of_importance_is_an_option_and_no_parameter_of_the_sampler():
    (choice,) = read_samplers("uncertainty:importance_weight=2:order=uncertain_first")
    options = choice.options(GenerationOptions(seed=3), 7)
    assert (options.sampler, options.sampler_config) == ("uncertainty", {"order": "uncertain_first"})
    assert (options.importance_weight, options.max_denoising_steps, options.seed) == (2, 7, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("remdn", "did you mean 'remdm'"),
        ("remdm,remdm", "must be different ones"),
        ("remdm:eta=0.1,remdm:eta=0.10", "must be different ones"),
        (" ,", "must be different ones"),
        ("remdm:0.1", "has 'remdm:0.1'; write for example remdm:eta=0.1"),
        ("remdm:=1", "NAME:PARAMETER=VALUE"),
        ("remdm:eta=", "NAME:PARAMETER=VALUE"),
        ("remdm:eta=1:eta=2", "each parameter once"),
        ("remdm:etta=0.1", "sampler remdm has no parameter 'etta'; did you mean eta?"),
        ("ddpm:eta=0.1", "sampler ddpm has no parameter 'eta'; it has none"),
        ("remdm:eta=much", "eta of sampler remdm must be a number, got 'much'"),
        ("remdm:eta=NaN", "eta must be between 0 and 1, got nan"),
        ("remdm:eta=true", "eta of sampler remdm must be a number, got True"),
        (
            "first_hitting:tokens_per_step=1.5",
            "tokens_per_step of sampler first_hitting must be an integer or none, got 1.5",
        ),
        ("entropy:reveal_schedule=[1,x]", "reveal_schedule must be linear, cosine or a list of weights"),
        ("entropy:reveal_schedule=7", "must be text or a list of numbers, got 7"),
        ("remdm:importance_weight=1", "importance_weight is for the sampler uncertainty"),
        ("uncertainty:importance_weight=-1", "importance_weight must be a number of at least 0, got -1"),
        ("uncertainty:importance_weight=NaN", "importance_weight must be a number of at least 0"),
    ],
)
def test_a_wrong_sampler_or_parameter_is_one_sentence(text, says):
    with pytest.raises(UserError) as failure:
        trials(read_samplers(text), [4], 8)
    assert says in str(failure.value)
    assert "\n" not in str(failure.value)
