"""WikiText comes a line a row; a document is an article."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import datasets

from ..caching import code_digest

# One sign of equality on either side: more of them are headings within an article.
_TITLE = re.compile(r" = [^=\s](.*[^=\s])? = \n?")


def is_wikitext(name: str) -> bool:
    """Whether the rows of a data set of this name are the lines of WikiText."""
    return name.rstrip("/").split("/")[-1].lower() == "wikitext"


def is_heading(line: str, line_before: str) -> bool:
    """Whether a line of WikiText is the title of an article: `` = Title = ``, but not right behind a line of text."""
    return not line_before.strip() and _TITLE.fullmatch(line) is not None


def group_articles(lines: datasets.Dataset) -> datasets.Dataset:
    """Return a row an article of the lines (column ``text``), in their order; cached."""
    return datasets.Dataset.from_generator(
        _articles,
        features=datasets.Features({"text": datasets.Value("string")}),
        gen_kwargs={"lines": lines, "code": code_digest(__file__)},
    )


def _articles(lines: datasets.Dataset, code: str) -> Iterator[dict[str, str]]:
    for article in articles(row["text"] or "" for row in lines):
        yield {"text": article}


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield the articles that lines make; what stands before the first title is an article, too."""
    article: list[str] = []
    for line in lines:
        if article and is_heading(line, article[-1]):
            yield "".join(article)
            article = []
        article.append(line)
    if article:
        yield "".join(article)
