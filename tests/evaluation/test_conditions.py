"""The conditions of a number are told by the same names, in words and as JSON."""

from __future__ import annotations

import json

import pytest

from hf_difflm.evaluation.conditions import Conditions, of_bound


@pytest.mark.parametrize(
    ("bound", "protocol", "draws", "words"),
    [("nelbo", "P0", 8, ("P0 (nelbo)", "8")), ("exact", "exact", None, ("exact", "none"))],
)
def test_what_is_exact_has_no_draws(bound, protocol, draws, words):
    found = of_bound(bound, 8, None, False)
    assert json.loads(json.dumps(found.to_json())) == {
        "protocol": protocol,
        "draws": draws,
        "bos_token": None,
        "chat_template": False,
    }
    assert tuple(said for _, said in found.rows()[:2]) == words


def test_each_condition_is_a_row_of_words():
    assert Conditions("llada", 128, "<s>", True).rows("LLaDA") == [
        ("protocol", "LLaDA"),
        ("draws", "128"),
        ("a text begins with", "<s>"),
        ("chat template", "applied"),
    ]
