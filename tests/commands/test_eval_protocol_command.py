"""``eval --protocol``: the table, the JSON, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hf_difflm.runs import load_run

FIXTURES = Path(__file__).parents[1] / "fixtures" / "released"
FEW = ("--protocol-draws", "8", "--protocol-batch", "4", "--max-eval-blocks", "2")


@pytest.mark.parametrize(("protocol", "parts"), [("llada", 3), ("dream", 4)])
def test_it_says_by_how_much_and_why_it_differs_from_the_bound(hf, trained, protocol, parts):
    result = hf("eval", trained, "--protocol", protocol, *FEW, "--exact", "--exact-order", "left_to_right", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    because = found["because"]
    assert len(because) == parts
    assert ("visible_eos" in because) == (protocol == "dream")
    assert found["minus_eval_nll"]["value"] == pytest.approx(found["protocol_nll"] - found["eval_nll"], abs=1e-9)
    total = math.fsum(part["value"] for part in because.values())
    assert total == pytest.approx(found["minus_eval_nll"]["value"], abs=1e-9)
    assert because["mask_token"]["value"] > 0
    assert found["protocol_nll_stderr"] > 0
    assert -sum(found["log_likelihoods"]) / found["scored_tokens"] == pytest.approx(found["protocol_nll"])
    plain = hf("eval", trained, "--max-eval-blocks", "2", "--exact", "--exact-order", "left_to_right", "--json")
    bound = json.loads(plain.out)
    assert found["eval_nll"] == pytest.approx(bound["eval_nll"], rel=1e-9)
    assert found["exact"]["left_to_right"]["eval_exact_nll"] == pytest.approx(
        bound["exact"]["left_to_right"]["eval_exact_nll"]
    )
    before = len(load_run(trained).measurements)
    shown = hf("eval", trained, "--protocol", protocol, *FEW)
    assert f"{found['protocol_nll']:.5f}" in shown.out
    assert f"{found['eval_nll']:.5f}" in shown.out
    conditions = {"protocol": protocol, "draws": 8, "bos_token": "[BOS]", "chat_template": False}
    assert {name: found[name] for name in conditions} == conditions
    assert found["eval_replicates"] == bound["eval_replicates"]
    assert "draws: 8; a text begins with: [BOS]; chat template: not applied" in shown.out
    assert len(load_run(trained).measurements) == before


def test_a_released_model_takes_its_own_protocol_on_texts_without_bos(hf, tmp_path):
    """Of blocks that begin with the token before them, as its text does here; what would not fit behind EOS is refused."""
    (tmp_path / "notes.txt").write_text("the cat sat on the mat. " * 40, encoding="utf-8")
    assert hf("convert", FIXTURES / "dream", "--output-dir", "dream").code == 0
    asked = ("eval", "dream", "--dataset", "notes.txt", "--protocol", "dream", "--no-add-bos", *FEW, "--json")
    found = json.loads(hf(*asked, "--block-size", "8").out)
    assert (found["scored_tokens"], found["add_bos"]) == (14, False)
    long = hf(*asked, "--block-size", "64")
    assert long.code != 0
    assert "65 tokens, but dream takes 64; lower --block-size" in " ".join(long.err.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--protocol", "other"), "protocol must be one of llada, dream"),
        (("--protocol", "llada", "--protocol-draws", "10"), "no multiple of --protocol-batch 16"),
        (("--protocol", "llada", "--generation"), "--protocol and --generation exclude each other"),
        (("--protocol", "llada", "--tasks", "lambada_openai"), "--protocol and --tasks exclude each other"),
        (("--protocol-draws", "16"), "--protocol-draws is for --protocol"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(hf, trained, flags, said):
    result = hf("eval", trained, *flags)
    assert result.code != 0
    assert said in " ".join(result.err.split())


def test_models_that_it_is_not_for_are_refused(hf, trained_ar, tiny):
    result = hf("eval", trained_ar, "--protocol", "llada")
    assert result.code != 0
    assert "is a causal LM, whose eval_nll is exact" in result.err
    blocks = ("--objective", "bd3lm", "--diffusion-block-size", "8", "--max-steps", "2", "--output-dir", "blocks")
    assert hf("train", *tiny, *blocks).code == 0
    result = hf("eval", "blocks", "--protocol", "dream")
    assert result.code != 0
    assert "has diffusion blocks of 8 tokens" in result.err
