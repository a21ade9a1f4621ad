"""The file of an ablation: which variants it makes, and what is refused."""

from __future__ import annotations

import pytest
import yaml

from hf_difflm.errors import UserError
from hf_difflm.experiments.ablation.grid import grid_names, load_grid
from hf_difflm.experiments.recipe_settings import load_settings


@pytest.fixture
def write(tmp_path):
    def to_file(**content):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return to_file


def test_one_factor_at_a_time_changes_one_key_of_the_variant_around_which_it_moves(write):
    grid = load_grid(
        write(
            variants={"mdlm": {}, "small": {"hidden_size": 64, "learning_rate": 0.1}},
            around="small",
            factors={"learning_rate": [0.1, 0.2], "noise-sampling": ["iid"]},
        )
    )
    assert grid.baseline == "mdlm"
    assert {variant.name: variant.settings for variant in grid.variants} == {
        "mdlm": {},
        "small": {"hidden_size": 64, "learning_rate": 0.1},
        "small, learning_rate=0.2": {"hidden_size": 64, "learning_rate": 0.2},
        "small, noise_sampling=iid": {"hidden_size": 64, "learning_rate": 0.1, "noise_sampling": "iid"},
    }


def test_a_full_design_has_every_combination(write):
    grid = load_grid(write(variants={"a": {}}, design="full", factors={"x": [1, 2], "y": ["p", "q"]}))
    assert [variant.settings for variant in grid.variants[1:]] == [
        {"x": 1, "y": "p"},
        {"x": 1, "y": "q"},
        {"x": 2, "y": "p"},
        {"x": 2, "y": "q"},
    ]


def test_variants_that_differ_in_how_text_is_drawn_share_their_runs(write):
    grid = load_grid(write(variants={"a": {"sampler": "ddpm"}}, factors={"sampler": ["ddpm_cache"], "seed": [7]}))
    names = [grid.run_name(variant, 1) for variant in grid.variants]
    assert names == ["a-seed1", "a-seed1", "a-seed=7-seed1"]
    assert grid.variants[1].generation == {"sampler": "ddpm_cache"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "variants names nothing to train"),
        ({"variants": {"a": {}}, "factor": {}}, "key 'factor' is unknown; did you mean"),
        ({"variants": {"a": 3}}, "variant a must be a mapping, got 3"),
        ({"variants": ["a"]}, "variants must be a mapping"),
        ({"variants": {"a": {}}, "baseline": "b"}, "baseline 'b' is no variant"),
        ({"variants": {"a": {}}, "reference": "ar"}, "reference 'ar' is no variant"),
        ({"variants": {"a": {}}, "seeds": [1, 1]}, "seeds must be different whole numbers, got [1, 1]"),
        ({"variants": {"a": {}}, "seeds": []}, "seeds must be different whole numbers"),
        ({"variants": {"a": {}}, "design": "all"}, "design must be one of one_factor, full, got 'all'"),
        ({"variants": {"a": {}}, "samples": -1}, "samples must be 0 or a positive integer, got -1"),
        ({"variants": {"a": {}}, "factors": {"x": 3}}, "factor x must be a list of values, got 3"),
        ({"variants": {"a": {}}, "tune": {"x": [1, 2], "y": [1]}}, "tune of a must have as many values of each key"),
        ({"variants": {"a": {"tune": {"x": 1}}}}, "tune of a must have as many values of each key"),
        (
            {"variants": {"a": {}}, "rounds": [{"seeds": [1]}]},
            "each round needs a name that is fit for a folder, got None",
        ),
        ({"variants": {"a": {}}, "rounds": [{"name": "a/b"}]}, "each round needs a name that is fit for a folder"),
        (
            {"variants": {"a": {}}, "rounds": [{"name": "a", "seed": 1}]},
            "key 'seed' of a round is unknown; did you mean",
        ),
        ({"variants": {"a": {}}, "rounds": [{"name": "a", "best": 0}]}, "best of round a must be a positive integer"),
        ({"variants": {"a": {}}, "rounds": [{"name": "a", "tune": 3}]}, "tune of round a must be true or false, got 3"),
    ],
)
def test_what_makes_no_ablation_is_refused_in_one_sentence(write, content, sentence):
    with pytest.raises(UserError) as refused:
        load_grid(write(**content))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'noise'"):
        load_grid("nois")
    with pytest.raises(UserError, match="does not exist"):
        load_grid("no/such.yaml")


@pytest.mark.parametrize("name", grid_names())
def test_every_ablation_that_comes_along_has_settings_that_train(name):
    grid = load_grid(name)
    assert grid.description
    for variant in grid.variants:
        load_settings(grid.recipe, {**grid.settings, **variant.settings, "seed": grid.seeds[0]})
