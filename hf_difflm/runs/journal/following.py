"""What a run does, line by line, while it does it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError
from .append_only import seems_abandoned
from .atomic_files import JOURNAL_NAME
from .quantities import NATS
from .schema import (
    RUNNING,
    STATUS_OF_EVENT,
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    MeasurementRecord,
    Record,
    RunRecord,
    SampleRecord,
    StepRecord,
    decode,
)
from .tables import count, number, printable, with_error

_BLOCK = 1 << 16
_ENDINGS = {event for event, status in STATUS_OF_EVENT.items() if status != RUNNING}


def journal_of(path: str | Path) -> Path:
    """Return the journal of a run.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    journal = path / JOURNAL_NAME if path.is_dir() else path
    if not journal.is_file() or journal.suffix != ".jsonl":
        raise UserError(f"there is no journal at {str(path)!r}; give a run folder or its {JOURNAL_NAME}")
    return journal


def last_lines(journal: Path, lines: int) -> tuple[list[str], int]:
    """Return the last whole lines of a journal and where in the file the line after them begins, in bytes."""
    with journal.open("rb") as file:
        size = end = file.seek(0, 2)
        tail = b""
        while end > 0 and tail.count(b"\n") <= lines:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            tail = file.read(end - start) + tail
            end = start
    whole = tail[: tail.rfind(b"\n") + 1]
    kept = whole.splitlines()[-lines:] if lines > 0 else []
    return [line.decode("utf-8", "replace") for line in kept], size - (len(tail) - len(whole))


def follow(journal: Path, offset: int, machine: str | None = None, poll_seconds: float = 0.2) -> Iterator[str]:
    """Yield each whole line as it is written, from an offset in bytes on, until the run ends, or dies, or is removed.

    A line that a crash has torn and a resume has cut off is never yielded; a file that begins anew is read anew.

    Args:
        journal: the journal.
        offset: where to begin.
        machine: where the run is trained, as its header says.
        poll_seconds: how often to look.
    """
    while True:
        try:
            file = journal.open("rb")
        except FileNotFoundError:  # removed with its run
            return
        with file:
            if file.seek(0, 2) < offset:
                offset = 0
            file.seek(offset)
            # A line in the making is read again from its beginning: a resume may have cut it off meanwhile.
            *lines, torn = file.read().split(b"\n")
            offset = file.tell() - len(torn)
        for line in lines:
            text = line.decode("utf-8", "replace")
            yield text
            record = parse(text)
            if isinstance(record, EventRecord) and record.event in _ENDINGS:
                return
        try:
            if not lines and seems_abandoned(journal, machine):
                return
        except FileNotFoundError:
            return
        time.sleep(poll_seconds)


def parse(line: str) -> Record | None:
    """Return the record of a line; None where it is damaged or of a type that this version does not know."""
    try:
        return decode(json.loads(line))
    except (ValueError, TypeError, AttributeError):
        return None


def describe(record: Record) -> str:
    """Return a record as one line for people."""
    if isinstance(record, StepRecord):
        found = [f"step {record.iter:>7,}", f"loss {number(record.loss, 4)}"]
        found += [f"accuracy {record.accuracy:.3f}"] if record.accuracy is not None else []
        found += [f"grad {record.grad_norm:.3g}"] if record.grad_norm is not None else []
        found += [f"lr {record.lr:.2e}"] if record.lr is not None else []
        found += [f"{count(record.tokens_per_sec)} tok/s"] if record.tokens_per_sec is not None else []
        found += [f"mfu {record.mfu:.1f} %"] if record.mfu is not None else []
        text = "  ".join(found)
    elif isinstance(record, EvaluationRecord):
        # Another Trainer's loss may be anything.
        unit = f" {NATS}" if record.number("eval_nll") is not None else ""
        text = f"eval {record.iter:>7,}  {with_error(record.nll, record.nll_stderr)}{unit}"
        text += f"  {number(record.number('eval_bpb'), 4)} bits/byte" if record.number("eval_bpb") is not None else ""
        if record.nll is None:  # of one of several sets, which has its name in those of its metrics
            losses = [name for name in record.metrics if name.endswith(("_loss", "_nll"))]
            text = "  ".join(
                [f"eval {record.iter:>7,}", *(f"{name} {number(record.number(name), 4)}" for name in losses)]
            )
        text += f"  accuracy {record.number('eval_accuracy'):.3f}" if record.number("eval_accuracy") is not None else ""
    elif isinstance(record, CheckpointRecord):
        text = f"save {record.iter:>7,}  {record.path}"
    elif isinstance(record, SampleRecord):
        text = f"text {record.iter:>7,}  {record.prompt!r} -> {record.text!r}"
    elif isinstance(record, MeasurementRecord):
        values = [
            f"{name} {number(value, 4)}" for name, value in record.metrics.items() if isinstance(value, (int, float))
        ]
        text = f"{record.source} {record.iter:>7,}  {'  '.join(values[:4])}"
        text += f"  and {len(values) - 4} more" if len(values) > 4 else ""
    elif isinstance(record, EventRecord):
        text = f"{record.event}" + ("" if record.iter is None else f" at step {record.iter:,}")
        text += f": {record.message}" if record.message else ""
    elif isinstance(record, RunRecord):
        text = f"run {record.run_name} ({record.objective or 'objective unknown'})"
    else:
        text = record.type
    return " ".join(printable(text).splitlines())
