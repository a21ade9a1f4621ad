"""File names of a run log, and files that are replaced in one step."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import UserError

JOURNAL_NAME = "journal.jsonl"
METRICS_SUFFIX = "_metrics.json"

# The document lies in the output folder by default, where these names belong to transformers, or to the journal.
_RESERVED = {
    "adapter_config",
    "all_results",
    "config",
    "eval_results",
    "generation_config",
    "journal",
    "preprocessor_config",
    "processor_config",
    "special_tokens_map",
    "tokenizer",
    "tokenizer_config",
    "train_results",
    "trainer_state",
}


def document_name(run_name: str) -> str:
    """Return the file name of a run's JSON document: ``{run_name}.json`` with the name made safe for file systems.

    Everything but letters, digits, ``.``, ``_``, ``-``, ``+`` and ``=`` becomes ``-``; the stem is at most 120
    characters; a name that is another file's (``config`` of transformers, ``journal``) gets ``_run`` appended.
    """
    stem = file_stem(run_name)
    if stem.lower() in _RESERVED:
        stem += "_run"
    return f"{stem}.json"


def set_aside_name(run_name: str) -> str:
    """Return the file name of the journal of a run whose folder another run has taken over: ``{run_name}.jsonl``."""
    return f"{document_name(run_name)}l"


def metrics_name(experiment_name: str) -> str:
    """Return the file name of a run's losses: ``{experiment_name}_metrics.json``, the name made safe likewise."""
    return f"{file_stem(experiment_name)}{METRICS_SUFFIX}"


def file_stem(name: str) -> str:
    """Return a name made safe for file systems; see :func:`document_name`."""
    return re.sub(r"[^\w.+=-]+", "-", name, flags=re.ASCII).strip("-.")[:120] or "run"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; at the end it becomes ``path`` in one step.

    A reader sees the old file or the new one, never a part. On an exception the old file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because writers choose their format by it; the leading dot keeps folder readers away.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private to the user
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete what a killed process has left of a replacement of ``path``; only while nobody else can be writing it."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"):
        leftover.unlink(missing_ok=True)


def write_page(path: Path, text: str, flag: str) -> None:
    """Write a page in one step; ``flag`` is the one that names the file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        # A lone surrogate, which JSON can hold, has no UTF-8.
        write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise UserError(f"the page {str(path)!r} cannot be written ({error.strerror}); name another {flag}") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` in one step; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(mask)
    return mask
