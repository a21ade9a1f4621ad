"""``hf-difflm recipes``: what ships, what a recipe says, and how to spread a training."""

from __future__ import annotations

import json
from pathlib import Path

import yaml


def test_the_launch_configurations_are_listed_with_their_use_and_a_path_that_exists(hf):
    told = hf("recipes", "--accelerate").out
    entries = json.loads(hf("recipes", "--accelerate", "--json").out)
    assert {entry["name"] for entry in entries} >= {"cpu", "multi_cpu", "ddp", "fsdp2", "zero2", "zero3", "multi_node"}
    for entry in entries:
        assert yaml.safe_load(Path(entry["path"]).read_text())["compute_environment"] == "LOCAL_MACHINE"
        assert entry["path"] in told
        assert entry["use"] in told


def test_recipes_are_listed_and_printed_as_text_and_as_json(hf):
    names = [line.split()[0] for line in hf("recipes").out.splitlines()]
    assert [entry["name"] for entry in json.loads(hf("recipes", "--json").out)] == names
    assert json.loads(hf("recipes", "demo", "--json").out) == yaml.safe_load(hf("recipes", "demo").out)


def test_a_recipe_beside_accelerate_is_refused(hf):
    code, out, err = hf("recipes", "demo", "--accelerate")
    assert (code, out) == (2, "")
    assert err == "error: --accelerate lists configurations and takes no recipe, got 'demo'; leave one of them out\n"
