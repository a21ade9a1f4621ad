"""Which points are worth having, and their table and picture."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_difflm.errors import UserError
from hf_difflm.runs.comparing.pareto import CAUSAL, GenerationPoint, pareto_front, pareto_rows
from hf_difflm.runs.plots.pareto import plot_pareto

POINT = GenerationPoint(
    sampler="ddpm_cache",
    steps=8,
    samples=4,
    tokens=32.0,
    reference_perplexity=20.0,
    reference_entropy=3.0,
    unigram_entropy=3.1,
    distinct_1=0.1,
    distinct_2=0.5,
    distinct_3=0.9,
    mauve=None,
    forwards=8.0,
    seconds=0.5,
    batch_size=4,
)


def point(perplexity, entropy, forwards, **changes):
    return replace(POINT, reference_perplexity=perplexity, reference_entropy=entropy, forwards=forwards, **changes)


def test_a_point_is_beaten_only_by_one_as_good_in_all_three():
    good, worse, varied, cheap = point(20, 3, 8), point(21, 3, 8), point(40, 3.2, 8), point(90, 1, 2)
    assert pareto_front([good, worse, varied, cheap]) == [True, False, True, True]


def test_equal_points_do_not_beat_each_other():
    assert pareto_front([POINT, POINT]) == [True, True]


def test_repetitive_text_beats_nothing_that_is_more_varied():
    assert pareto_front([point(2, 0.1, 8), point(30, 3, 8)]) == [True, True]


def test_a_causal_lm_and_what_has_no_perplexity_stand_outside():
    causal = point(1, 9, 1, sampler=CAUSAL, steps=None)
    assert pareto_front([causal, POINT, point(None, None, 1)]) == [False, True, False]


@given(st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=12))
def test_the_front_is_that_of_all_pairs(values):
    found = pareto_front([point(perplexity, -entropy, forwards) for perplexity, entropy, forwards in values])
    for own, best in zip(values, found, strict=True):
        no_worse = [other for other in values if all(a <= b for a, b in zip(other, own, strict=True))]
        assert best == all(other == own for other in no_worse)


def test_the_table_leaves_out_what_nobody_has_and_marks_the_front():
    headings, rows = pareto_rows([POINT, point(30, 2, 9)])
    assert headings == [
        "sampler",
        "steps",
        "perplexity",
        "entropy",
        "distinct-1/2/3",
        "forwards",
        "time a text",
        "front",
    ]
    assert rows[0] == ["ddpm_cache", "8", "20.00", "3.000", "0.10 / 0.50 / 0.90", "8.0", "500 ms", "*"]
    assert rows[1][-1] == ""
    headings, rows = pareto_rows([replace(POINT, mauve=0.25)])
    assert rows[0][headings.index("MAUVE")] == "0.250"
    headings, _ = pareto_rows([point(None, None, 8)])
    assert "perplexity" not in headings
    assert "front" not in headings


@pytest.mark.parametrize("reference", ["runs/a_$twin", None])
def test_the_picture_is_drawn_whatever_is_missing(tmp_path, reference):
    points = [
        POINT,
        point(30, 2, 16),
        point(None, None, 3, sampler="remdm"),
        point(math.inf, 2, 3, sampler="remdm"),
        point(9, 3, 32, sampler=CAUSAL, steps=None),
    ]
    path = plot_pareto(points, tmp_path / "new" / "pareto.png", title="a_$run: 4 texts", reference=reference)
    with Image.open(path) as picture:
        assert picture.width > picture.height > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_a_picture_without_a_suffix_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"end it in \.png"):
        plot_pareto([POINT], tmp_path / "pareto", title="", reference=None)
