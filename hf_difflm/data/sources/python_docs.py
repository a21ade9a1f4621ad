"""English and code that every Python carries: the language reference and the standard library's docstrings."""

from __future__ import annotations

import ast
import hashlib
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value

from ..caching import code_digest

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "__pycache__"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_EVALUATION_SHARE = 0.05  # of the documents, for validation and for test each


def python_docs() -> DatasetDict:
    """Return train, validation and test documents (column ``text``), in a fixed order without duplicates.

    A document is one topic of the language reference, or all docstrings of one module of the standard library of
    the running interpreter. 90, 5 and 5 % of the documents go to the three splits, by the order of their hashes.
    """
    rows = Dataset.from_generator(
        _documents,
        features=Features({"text": Value("string"), "split": Value("string")}),
        # Everything the text depends on: `datasets` keys its cache by these.
        gen_kwargs={
            "stdlib": sysconfig.get_paths()["stdlib"],
            "version": f"{platform.python_implementation()} {platform.python_version()}",
            "code": code_digest(__file__),
        },
    )
    split_of_row = np.array(rows["split"][:])
    texts = rows.select_columns("text")
    return DatasetDict(
        {split: texts.select(np.flatnonzero(split_of_row == split)) for split in ("train", "validation", "test")}
    )


def _documents(stdlib: str, version: str, code: str) -> Iterator[dict[str, str]]:
    # A dictionary keeps the first of equal documents, in order.
    documents = dict.fromkeys(text for text in [*_topics(), *_module_docstrings(Path(stdlib))] if text)
    by_hash = sorted(documents, key=lambda text: hashlib.sha256(text.encode("utf-8")).digest())
    share = round(_EVALUATION_SHARE * len(by_hash))
    splits = dict.fromkeys(by_hash[:share], "validation") | dict.fromkeys(by_hash[share : 2 * share], "test")
    for text in documents:
        yield {"text": text, "split": splits.get(text, "train")}


def _topics() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name].strip() for name in sorted(topics)]


def _module_docstrings(stdlib: Path) -> list[str]:
    """Return one document a module; the sources are parsed, never imported: importing has side effects."""
    paths = [path.relative_to(stdlib) for path in stdlib.rglob("*.py")]
    return [
        "\n\n".join(_docstrings((stdlib / path).read_bytes()))
        for path in sorted(paths, key=lambda path: path.as_posix())
        if _SKIPPED_FOLDERS.isdisjoint(path.parts)
    ]


def _docstrings(source: bytes) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # templates and deliberately broken files lie between the modules
            return
    nodes = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED) and node.body]
    for node in sorted(nodes, key=lambda node: node.body[0].lineno):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            # A docstring may hold half of a surrogate pair, which no UTF-8 text can.
            yield inspect.cleandoc(docstring).encode("utf-8", "replace").decode("utf-8")
