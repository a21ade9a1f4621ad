"""The append-only journal: the truth about a run, from which everything else is derived."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import weakref
from collections.abc import Iterable
from pathlib import Path

from .schema import RUNNING, STATUS_OF_EVENT, EventRecord, Record, decode, encode
from .strict_json import loads

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

RECORDS_LOST = "records_lost"
"""The event that says how many records before it could not be written."""
_BLOCK = 1 << 16
# A run that has just ended lets go of its journal a moment after it was read as running.
_MOMENT_SECONDS = 2.0
# Locks may not reach from one machine to another: a run elsewhere counts as living while it writes.
_QUIET_SECONDS = 60.0
_TRIES, _TRY_SECONDS = 5, 0.02


class Journal:
    """Append records to a JSONL file: one ``write`` on an O_APPEND descriptor for each call, synchronous, no buffer.

    What has been appended survives the death of the process. A line that a crash has torn is removed before the first
    append. The file is opened at the first append and again after :meth:`close`. While it is open, no other process can
    open it as a journal: the kernel keeps the lock and drops it when the process ends, however it ends. Where the system
    has no ``flock`` nothing is locked.

    Args:
        path: the file; its folder is made where it is missing.

    Raises:
        BlockingIOError: (from :meth:`open` and :meth:`append`) another process is writing this journal.
        OSError: the file cannot be opened or written; what did not fit is taken back, all records of the call.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def open(self) -> None:
        """Open, lock and repair the file; harmless where it is open."""
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _lock(descriptor)
                _repair(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            # Where nobody closes it, the lock goes with the object.
            self._finalizer = weakref.finalize(self, os.close, descriptor)
            self._finalizer.atexit = False
            _OPEN.add(self)

    def append(self, record: Record) -> None:
        """Write one record."""
        self.append_all((record,))

    def append_all(self, records: Iterable[Record]) -> None:
        """Write records in one go."""
        self.append_lines([encode(record) for record in records])

    def append_lines(self, lines: Iterable[str]) -> None:
        """Write records in one go that :func:`hf_difflm.runs.journal.schema.encode` has encoded, or what does the same."""
        payload = "".join([line + "\n" for line in lines]).encode("ascii")
        self.open()
        descriptor = self._opened()
        written = os.write(descriptor, payload)
        if written < len(payload):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def clear(self) -> None:
        """Open the file and delete all that is in it."""
        self.open()
        os.ftruncate(self._opened(), 0)

    def close(self) -> None:
        """Unlock and close the file; harmless where it is closed."""
        if self._descriptor is not None:
            # A process forked a moment ago may still hold a copy of the descriptor: closing ours would not unlock it.
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.close_copy()

    def close_copy(self) -> None:
        """Close a forked process's copy of the file, and leave the lock to the process that opened it."""
        if self._descriptor is not None:
            self._finalizer()
            self._descriptor = None

    def is_open_on(self, file: os.stat_result) -> bool:
        """Whether this is open, and on that very file."""
        return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), file)

    def _opened(self) -> int:
        if self._descriptor is None:
            raise ValueError("the journal is not open")
        return self._descriptor


_OPEN: weakref.WeakSet[Journal] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked data loader worker may outlive a killed training for seconds: it must not keep the lock.
    for journal in list(_OPEN):
        journal.close_copy()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _lock(descriptor: int) -> None:
    """Lock the file until the descriptor is closed, for no longer than the process lives.

    Raises:
        BlockingIOError: another process has locked it.
    """
    if fcntl is None:
        return
    for left in reversed(range(_TRIES)):
        try:
            _try_lock(descriptor, fcntl.LOCK_EX)
            return
        except BlockingIOError:
            if not left:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing it") from None
            time.sleep(_TRY_SECONDS)  # it may only have asked whether anybody does


def _try_lock(descriptor: int, kind: int) -> bool:
    """Lock the file; False where the file system has no locks: there it is written without one.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise
        return False
    return True


def has_other_writer(path: Path) -> bool:
    """Whether another living process has the journal open; changes nothing, and False where there is none or no locks.

    Raises:
        OSError: the file cannot be opened.
    """
    return _writer_of(path) == _ANOTHER


def seems_abandoned(path: Path, machine: str | None = None) -> bool:
    """Whether nobody has a journal open whose run has not ended: a killed run cannot say that it did.

    False where there are no locks to tell by, and for two seconds after the last line. Of a run on another machine, whose
    lock may not be seen here, for a minute.

    Args:
        path: the journal.
        machine: where it was written, as its header says; None where that is not known.

    Raises:
        OSError: the file cannot be opened.
    """
    here = machine is not None and machine == this_machine()
    if time.time() - path.stat().st_mtime <= (_MOMENT_SECONDS if here else _QUIET_SECONDS):
        return False
    return _writer_of(path) == _NOBODY and not _says_that_it_ended(path)


def this_machine() -> str | None:
    """Return what tells machines apart on which a lock is seen, and their restarts: no name; None where nothing tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(boot).hexdigest()[:12]


_NOBODY, _OURSELVES, _ANOTHER, _NOT_KNOWN = range(4)


def _writer_of(path: Path) -> int:
    """Who has the journal open.

    Raises:
        OSError: the file cannot be opened.
    """
    if fcntl is None:
        return _NOT_KNOWN
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _NOBODY
    try:
        file = os.fstat(descriptor)
        if any(journal.is_open_on(file) for journal in list(_OPEN)):
            return _OURSELVES
        # Shared, so that two who ask do not take each other for a writer; closing lets go of it.
        return _NOBODY if _try_lock(descriptor, fcntl.LOCK_SH) else _NOT_KNOWN
    except BlockingIOError:
        return _ANOTHER
    finally:
        os.close(descriptor)


def _says_that_it_ended(path: Path) -> bool:
    """Whether the run has ended by now: it may have done so after it was read, before it was asked who writes it."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _BLOCK, 0))
        records, _ = parse_lines(file.read().splitlines(keepends=True))
    statuses = [STATUS_OF_EVENT.get(record.event) for record in records if isinstance(record, EventRecord)]
    said = [status for status in statuses if status]
    return bool(said) and said[-1] != RUNNING


def read_records(path: Path) -> tuple[list[Record], int]:
    """Return the records of a journal and the number of damaged lines, which are skipped.

    A last line without a line break that is no complete record was torn by a crash: it is ignored and not counted.
    """
    with path.open("rb") as lines:
        return parse_lines(lines)


def parse_lines(lines: Iterable[bytes]) -> tuple[list[Record], int]:
    """Return the records of some lines of a journal and the number of damaged ones; see :func:`read_records`."""
    records: list[Record] = []
    damaged = 0
    for line in lines:
        try:
            record = decode(loads(line))
        except (ValueError, TypeError, AttributeError):  # no JSON, a field missing, no JSON object
            damaged += line.endswith(b"\n")
            continue
        if record is not None:
            records.append(record)
    return records, damaged


def _repair(descriptor: int) -> None:
    """Cut a torn last line off; complete one that lacks only its line break."""
    size = os.fstat(descriptor).st_size
    tail, start = b"", size
    while start > 0 and b"\n" not in tail:
        length = min(_BLOCK, start)
        start -= length
        tail = os.pread(descriptor, length, start) + tail
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return
    try:
        loads(torn)
    except ValueError:
        os.ftruncate(descriptor, size - len(torn))
    else:
        os.write(descriptor, b"\n")
