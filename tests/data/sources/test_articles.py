"""WikiText: a document is an article, not a line."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from streams import stream, tokens, write_jsonl

from hf_difflm.data.sources.articles import articles, is_heading

ARTICLES = [
    [" = First = \n", "", " Some text . \n", "", " = = Section = = \n", "", " More text . \n", ""],
    [" = Second thing = \n", "", " Its text . \n", " = 2 = \n", " goes on . \n", ""],
    [" = 3 = \n", "", " Short . \n"],
]
LINES = ["", *(line for article in ARTICLES for line in article)]
DOCUMENTS = ["".join(article) for article in ARTICLES]


@pytest.fixture
def wikitext(tmp_path: Path) -> Path:
    """The data set as the Hub has it: Parquet, a line a row."""
    folder = tmp_path / "wikitext"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": LINES}).to_parquet(folder / "train.parquet")
    datasets.Dataset.from_dict({"text": [" = Other = \n", "", " words . \n"]}).to_parquet(folder / "validation.parquet")
    files = "".join(f"  - split: {name}\n    path: {name}.parquet\n" for name in ("train", "validation"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: raw\n  data_files:\n{files}---\n")
    return folder


def test_lines_make_articles_and_no_character_is_lost():
    assert list(articles(LINES)) == ["", *DOCUMENTS]  # an empty line before the first title
    assert "".join(articles(LINES)) == "".join(LINES)


@pytest.mark.parametrize(
    ("line", "before", "expected"),
    [
        (" = Title = \n", "", True),
        (" = Title = ", "\n", True),
        (" = A = B = \n", "", True),
        (" = = Section = = \n", "", False),
        (" = = = Part = = = \n", "", False),
        (" = 2 = \n", " text \n", False),
        (" x = y \n", "", False),
        ("", "", False),
    ],
)
def test_a_title_has_one_sign_on_either_side_and_nothing_before_it(line, before, expected):
    assert is_heading(line, before) is expected


def test_articles_are_the_documents_of_the_data_set_held(wikitext, prepare):
    data = prepare(wikitext, dataset_config="raw", train_split="train")
    assert data.counts["train"].documents == 3
    assert data.counts["eval"].documents == 1


def test_articles_are_the_documents_of_the_data_set_streamed(wikitext, byte_level, tmp_path):
    train = stream(wikitext, byte_level, dataset_config="raw").train
    expected: list[int] = []
    for document in DOCUMENTS:
        expected += [257] * bool(expected) + list(document.encode())
    count = len(expected) // 15
    assert tokens(train, count) == expected[: count * 15]


def test_lines_of_other_data_sets_stay_documents(tmp_path, prepare):
    path = write_jsonl(tmp_path / "lines.jsonl", [line or " " for line in LINES])
    assert prepare(path, eval_fraction=0.1).counts["train"].documents > 10
