"""Undo what the benchmark sets of language modelling did to their text, as in the MDLM paper.

Their words stand apart from their punctuation (``the dog 's tail , he said``) and numbers or quotation marks are spelled in
ways of their own. Models of plain text are scored on plain text, so the spacing is put right first. The rules are those of
the code of the MDLM paper (arXiv 2406.07524, github.com/kuleshov-group/mdlm, ``dataloader.py``), which took them over from
earlier work; they are applied in this order, and since perplexities are compared with the paper's, with their oddities
(``s '`` becomes ``s'`` inside of ``is 'so'`` too).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa

Rule = tuple[str | re.Pattern[str], str]

_WIKITEXT: Sequence[Rule] = (
    ("s '", "s'"),
    # Numbers, whose separators WikiText marks.
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    *((f" {sign} ", f"{sign} ") for sign in ":;.!?,"),
    # What stands between brackets or quotation marks.
    (re.compile(r"\(\s*([^)]*?)\s*\)"), r"(\1)"),
    (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"),
    (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r'"\s*([^"]*?)\s*"'), r'"\1"'),
    (re.compile(r"'\s*([^']*?)\s*'"), r"'\1'"),
    # Headings.
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)

_PTB: Sequence[Rule] = (
    (" 's", "'s"),
    ("s ' ", "s' "),
    (" n't", "n't"),
    (" \n ", "\n"),
    ("\\/", "/"),
    # N is every number. Neighbours share a space, so one pass leaves every second one.
    (" N ", " 1 "),
    (" N ", " 1 "),
    ("$ 1", "$1"),
    ("# 1", "#1"),
    ("<unk>", "?"),
)

_LM1B: Sequence[Rule] = (
    ("http : / / ", "http://"),
    ("https : / / ", "https://"),
    (re.compile(r" '(\w+)"), r"'\1"),
    (re.compile(r" (\w+) \. "), r" \1. "),
    (re.compile(r" (\w+) \.$"), r" \1."),
    (" ? ", "? "),
    (re.compile(r" \?$"), "?"),
    (" ! ", "! "),
    (re.compile(r" !$"), "!"),
    (" , ", ", "),
    (" : ", ": "),
    (" ; ", "; "),
    (" / ", "/"),
    (re.compile(r'" ([^"]+) "'), r'"\1"'),
    (re.compile(r"' ([^']+) '"), r"'\1'"),
    (re.compile(r"\( ([^()]+) \)"), r"(\1)"),
    (re.compile(r"\[ ([^\[\]]+) \]"), r"[\1]"),
    ("$ ", "$"),
    ("\N{POUND SIGN} ", "\N{POUND SIGN}"),
)


def detokenize_wikitext(text: str) -> str:
    """Undo the spacing of WikiText."""
    return _apply(_WIKITEXT, text)


def detokenize_ptb(text: str) -> str:
    """Undo the spacing of the Penn Treebank: every number becomes 1, and an unknown word a question mark."""
    return _apply(_PTB, text)


def detokenize_lm1b(text: str) -> str:
    """Undo the spacing of the One Billion Word benchmark."""
    return _apply(_LM1B, text)


def detokenize_lambada(text: str) -> str:
    """Straighten the quotation marks of LAMBADA, and let each passage begin with a line break."""
    return (
        "\n"
        + text.replace("\N{LEFT DOUBLE QUOTATION MARK}", '"').replace("\N{RIGHT DOUBLE QUOTATION MARK}", '"').strip()
    )


def detokenize_scientific_papers(text: str) -> str:
    """Undo the spacing of the papers of arXiv and PubMed: the rules of WikiText, then those of the One Billion Words."""
    return detokenize_lm1b(detokenize_wikitext(text))


DETOKENIZERS: dict[str, Callable[[str], str]] = {
    "ptb": detokenize_ptb,
    "wikitext": detokenize_wikitext,
    "lm1b": detokenize_lm1b,
    "lambada": detokenize_lambada,
    "scientific_papers": detokenize_scientific_papers,
}


def detokenize_table(table: pa.Table, name: str) -> pa.Table:
    """Detokenise the column ``text`` of an Arrow table; a null is an empty text."""
    detokenize = DETOKENIZERS[name]
    return pa.table(
        {"text": pa.array([detokenize(text or "") for text in table.column("text").to_pylist()], pa.string())}
    )


def _apply(rules: Sequence[Rule], text: str) -> str:
    for pattern, replacement in rules:
        text = text.replace(pattern, replacement) if isinstance(pattern, str) else pattern.sub(replacement, text)
    return text
