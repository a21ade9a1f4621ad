"""The spacing of the benchmark sets is undone as in the paper they are compared with: by examples, rule by rule."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hf_difflm.evaluation.likelihood.detokenizers import DETOKENIZERS, detokenize_table
from hf_difflm.evaluation.likelihood.zero_shot_options import DETOKENIZER_NAMES

EXAMPLES = {
    "ptb": [
        ("the dog 's tail", "the dog's tail"),
        ("the dogs ' tails", "the dogs' tails"),
        ("he did n't say", "he didn't say"),
        ("N N N N to", "N 1 1 1 to"),  # the first has no space before it
        ("a total of N N", "a total of 1 N"),  # and the last none behind it
        ("$ N billion", "$1 billion"),
        ("# N million", "#1 million"),
        ("the <unk> of mr. <unk>", "the ? of mr. ?"),
        ("N \\/ N", "N / N"),
    ],
    "wikitext": [
        ("1 @,@ 234 @.@ 5 and well @-@ known", "1,234.5 and well-known"),
        ("one , two ; three : four . five ! six ? seven", "one, two; three: four. five! six? seven"),
        ("a ( b c ) and [ d ] or { e }", "a (b c) and [d] or {e}"),
        ('he said " so what " then', 'he said "so what" then'),
        (" = = Early life = = \n", " == Early life ==\n"),
        (" = = = Youth = = = ", " === Youth === "),
        ("20 ° C", "20°C"),
        ("the team 's goal", "the team's goal"),
        ("line \n next", "line\nnext"),
        ("the players 's ", "the players's "),
        ("took N games", "took 1 games"),
    ],
    "lm1b": [
        ("http : / / www.x.org", "http://www.x.org"),
        ("https : / / www.x.org", "https://www.x.org"),
        ("it 's here and we 're not", "it's here and we're not"),
        ("the end .", "the end."),
        ("Mr. X . Then", "Mr. X. Then"),
        ("why ? Because", "why? Because"),
        ("why ?", "why?"),
        ("no ! Yes", "no! Yes"),
        ("no !", "no!"),
        ("a , b : c ; d / e", "a, b: c; d/e"),
        ('a " quoted word " here', 'a "quoted word" here'),
        ("a ( bracketed ) word and [ another ]", "a (bracketed) word and [another]"),
        ("$ 5 and £ 6", "$5 and £6"),
    ],
    "lambada": [(" “ stop , ” he said \n", '\n" stop , " he said')],
    "scientific_papers": [("we show ( in fig . 2 ) , that x 's rate", "we show (in fig. 2), that x's rate")],
}


@pytest.mark.parametrize(("name", "text", "plain"), [(n, *pair) for n, pairs in EXAMPLES.items() for pair in pairs])
def test_each_rule_by_example(name, text, plain):
    assert DETOKENIZERS[name](text) == plain


def test_plain_prose_stays_as_it_is():
    prose = 'She said "no" (twice), then left; the cost was $5.50, or 1,200 yen. Why? It\'s unclear!\nA new line.'
    for name, detokenize in DETOKENIZERS.items():
        assert detokenize(prose).lstrip("\n") == prose, name


def test_the_flag_knows_the_rules_there_are():
    assert tuple(DETOKENIZERS) == DETOKENIZER_NAMES


def test_a_missing_text_is_an_empty_one():
    table = pa.table({"text": pa.array(["a 's", None])})
    assert detokenize_table(table, "ptb").column("text").to_pylist() == ["a's", ""]
