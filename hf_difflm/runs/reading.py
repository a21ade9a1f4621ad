"""Read runs back: from a folder, a journal or a document; whole, partial or torn."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..errors import UserError
from .files import JOURNAL_NAME
from .journal import read_records
from .run import Run
from .schema import (
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    Record,
    RunRecord,
    SampleRecord,
    StepRecord,
    decode,
)

logger = logging.getLogger(__name__)

_DOCUMENT_KEYS = {"run_name", "training_iterations"}
_LISTS = {"events": EventRecord.type, "checkpoints": CheckpointRecord.type, "samples": SampleRecord.type}
_EVAL_STEP_KEYS = {"iter", "train_loss", "val_loss", "val_loss_stderr", "lr", "timestamp"}


def load_run(path: str | Path) -> Run:
    """Return the run in a folder, a journal (``journal.jsonl``) or a document (``{run_name}.json``).

    In a folder the journal is preferred to documents, which are derived from it. Partial logs are read as far as they
    go.

    Raises:
        UserError: there is no run; the sentence says what was found instead.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise UserError(f"there is no run at {str(path)!r}; give a run folder, its {JOURNAL_NAME} or its JSON document")
    return read_journal(path) if path.suffix == ".jsonl" else read_document(path)


def read_journal(path: Path) -> Run:
    """Return the run of a journal file.

    Raises:
        UserError: the file cannot be read or holds no header.
    """
    try:
        records, damaged = read_records(path)
    except OSError as error:
        raise UserError(f"the journal {str(path)!r} cannot be read ({error.strerror}); give a run folder") from error
    run = Run.from_records(path, records, damaged)
    if run is None:
        found = (
            f"{len(records)} records without a header" if records else f"{path.stat().st_size} bytes, not one record"
        )
        raise UserError(f"{str(path)!r} is not the journal of a run (found {found}); give a run folder or its journal")
    if damaged:
        logger.warning("%s: %d damaged lines were skipped", path, damaged)
    return run


def read_document(path: Path) -> Run:
    """Return the run of a JSON document; documents of the same layout by other programs are read too.

    Raises:
        UserError: the file is not JSON or not the document of a run.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror}); give a run folder") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not valid JSON ({error}); give a run folder or its journal") from error
    if not isinstance(document, dict) or not document.keys() >= _DOCUMENT_KEYS:
        found = f"the keys {', '.join(list(document)[:5])}" if isinstance(document, dict) else type(document).__name__
        raise UserError(f"{str(path)!r} is not the log of a run (found {found}); give a run folder or its journal")
    try:
        run = Run.from_records(path, _records(document))
    except (TypeError, AttributeError, ValueError) as error:  # rows that are no objects or lack their step
        raise UserError(f"{str(path)!r} is not the log of a run ({error}); give a run folder or its journal") from error
    if run is None:
        raise UserError(f"{str(path)!r} is not the log of a run (no header); give a run folder or its journal")
    return run


def _load_folder(folder: Path) -> Run:
    journal = folder / JOURNAL_NAME
    if journal.exists():
        return read_journal(journal)
    documents = [path for path in sorted(folder.glob("*.json")) if _is_document(path)]
    if len(documents) == 1:
        return read_document(documents[0])
    if documents:
        names = ", ".join(path.name for path in documents)
        raise UserError(f"{str(folder)!r} holds {len(documents)} runs ({names}); name one of the files")
    inside = sorted(path.parent.name for path in folder.glob(f"*/{JOURNAL_NAME}"))
    if inside:
        raise UserError(f"{str(folder)!r} is not a run, but holds the runs {', '.join(inside)}; name one of them")
    count = sum(1 for _ in folder.iterdir())
    found = f"{count} other files and folders" if count else "an empty folder"
    raise UserError(f"{str(folder)!r} is not a run (found {found}); give a folder with a {JOURNAL_NAME} in it")


def _is_document(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.keys() >= _DOCUMENT_KEYS


def _records(document: dict[str, Any]) -> list[Record]:
    """The journal that would give this document."""
    header = {name: value for name, value in document.items() if name not in ("type", "time", "nonfinite")}
    for name in ("training_iterations", "eval_steps", "checkpoints", "samples", "events", "summary"):
        header.pop(name, None)
    records: list[Record | None] = [
        decode({**header, "type": RunRecord.type, "time": document.get("start_time") or ""})
    ]
    # Events first: what a resume superseded is gone from a document already.
    for name, kind in _LISTS.items():
        rows = document.get(name) or ()
        records += [decode({**row, "type": kind, "time": row.get("timestamp") or ""}) for row in rows]
    for row in document.get("eval_steps") or ():
        metrics = {name: value for name, value in row.items() if name not in _EVAL_STEP_KEYS}
        if "eval_nll" not in metrics:
            metrics.setdefault("eval_loss", row.get("val_loss"))
        line = {"iter": row.get("iter"), "metrics": metrics, "time": row.get("timestamp") or ""}
        records.append(decode({**line, "type": EvaluationRecord.type}))
    for row in document["training_iterations"]:
        row = dict(row, mfu=None) if row.get("mfu") == -100.0 else row  # what other programs write for "unknown"
        records.append(decode({**row, "type": StepRecord.type}))
    if not document.get("events") and document.get("end_time"):
        records.append(EventRecord(event="completed", time=document["end_time"]))
    return [record for record in records if record is not None]
