"""The text of a named evaluation set: one split, from the Hub or its cache."""

from __future__ import annotations

from pathlib import Path

import datasets
from huggingface_hub import snapshot_download

from ...data.sources.bad_rows import judge
from ...data.sources.local_files import load_local
from ...errors import UserError, first_line

REVISION = "refs/convert/parquet"
"""The branch on which the Hub keeps each data set as Parquet, one folder a configuration and split.

Some of the sets have a loading script on their main branch, which ``datasets`` runs no more; and here a split can be had
without the gigabytes of the others.
"""


def load_evaluation_split(
    name: str, repository: str, config: str | None, split: str, text_column: str
) -> datasets.Dataset:
    """Return the documents (column ``text``) of one split of a data set on the Hub.

    Args:
        name: of the set, for messages.
        repository: ``OWNER/NAME`` of the data set.
        config: its configuration; None where it has one alone.
        split: split, without a slice.
        text_column: column that holds the text.

    Raises:
        UserError: it is neither on the Hub, as far as that can be reached, nor in the cache; or has no such column.
    """
    # Of a data set of many gigabytes the Hub converts but a part, and says so in the name.
    patterns = [f"{config or '*'}/{folder}/*.parquet" for folder in (split, f"partial-{split}")]
    missing = f"split {split!r} of {repository}" + (f" (configuration {config!r})" if config else "")
    instead = (
        f"or give the text itself, --dataset FILE with --text-column, --detokenizer and --packing as in set {name}"
    )
    try:
        snapshot = snapshot_download(repository, repo_type="dataset", revision=REVISION, allow_patterns=patterns)
    except Exception as error:  # the Hub, the network and the cache each raise their own; the user needs one sentence
        raise UserError(
            f"evaluation set {name!r} needs {missing}, which is not in the cache and cannot be had from the Hugging Face Hub "
            f"({first_line(error)}); run this once with network access, {instead}"
        ) from error
    files = sorted(file for pattern in patterns for file in Path(snapshot).glob(pattern))
    if not files:
        raise UserError(
            f"evaluation set {name!r} needs {missing}, and {snapshot} does not hold it; check --split, {instead}"
        )
    splits, bad = load_local(files[0].parent, text_column)
    judge(bad, len(splits["train"]), str(files[0].parent), skip=False)
    return splits["train"]
