"""A training set that reads its text while the training goes on."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from hf_difflm.errors import UserError

from ..encoding import DocumentEncoder
from .reader import START, LeftOut, StreamReader
from .sources import Source

logger = logging.getLogger(__name__)


class BlockStream(Dataset[dict[str, np.ndarray]]):
    """The blocks of a stream by their number, as far as those are asked for in about their order.

    Block i is always the same: the i-th of the text in the order of its source. They are read by windows of
    ``window_size`` blocks, the next window by a thread while the last one is in use, and two windows are all that is
    held. Whoever goes from window to window, in any order within each, never waits for long; another order costs reading
    again. Where the text ends before the stream does, it begins anew.

    Each process and each worker of a ``DataLoader`` reads all of the text.

    Args:
        source: the text.
        left_out: what of it is not for training.
        encoder, bos_token_id, eos_token_id: from the tokenizer.
        block_size: tokens in a block, BOS included.
        window_size: blocks in a window.
        num_blocks: where the stream ends; None: never.
        tokens_per_chunk: about how many tokens are tokenised at a time.

    Attributes:
        is_stream: True, which tells a stream from a set that is held.
        fingerprint: changes when any block does.
    """

    is_stream = True

    def __init__(
        self,
        source: Source,
        left_out: LeftOut,
        encoder: DocumentEncoder,
        *,
        bos_token_id: int,
        eos_token_id: int,
        block_size: int,
        window_size: int,
        num_blocks: int | None,
        tokens_per_chunk: int,
        fingerprint: str,
    ) -> None:
        self.source = source
        self.left_out = left_out
        self.encoder = encoder
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.block_size = block_size
        self.window_size = window_size
        self.num_blocks = num_blocks
        self.tokens_per_chunk = tokens_per_chunk
        self.fingerprint = fingerprint
        self._states = _WindowStates()
        self._repeats = False
        self._forget()

    def _forget(self) -> None:
        """Nothing is read by this process so far."""
        self._process = os.getpid()
        self._thread: ThreadPoolExecutor | None = None
        self._current: tuple[int, Any] | None = None
        self._coming: tuple[int, Future[Any]] | None = None
        self._reader: tuple[int, Any] | None = None  # with the window it reads next; the thread's alone

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_thread": None, "_current": None, "_coming": None, "_reader": None}

    def __len__(self) -> int:
        if self.num_blocks is None:
            raise TypeError("this stream has no end, and so no length")
        return self.num_blocks

    def __bool__(self) -> bool:
        return True  # whether it has a length or not

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return ``{"input_ids": (block_size,) int32}``.

        Raises:
            IndexError: the stream ends before.
            UserError: the source cannot be read, or holds no text for training.
        """
        if index < 0 or (self.num_blocks is not None and index >= self.num_blocks):
            raise IndexError(f"block {index} of a stream of {self.num_blocks} blocks")
        window, place = divmod(index, self.window_size)
        return self._row(self._window(window), place)

    def _row(self, blocks: Any, place: int) -> dict[str, np.ndarray]:
        """A row of a window."""
        return {"input_ids": blocks[place].copy()}

    def _finished(self, blocks: Any) -> Any:
        """What the reader returns, as a window."""
        return np.insert(blocks, 0, self.bos_token_id, axis=1)

    # Windows.

    def _window(self, window: int) -> Any:
        """One window, (blocks, block_size) int32, while the thread goes on with the next."""
        if self._process != os.getpid():  # a worker: threads and readers stay with the process that forked
            self._forget()
        if self._current is not None and self._current[0] == window:
            return self._current[1]
        if self._thread is None:
            if get_worker_info() is not None:  # the threads of tokenizers do not survive a fork either
                os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")
        if self._coming is None or self._coming[0] != window:
            self._coming = window, self._thread.submit(self._read, window)
        try:
            blocks = self._coming[1].result()
        finally:
            self._coming = None
        self._current = window, blocks
        following = self._after(window)
        if following != window:
            self._coming = following, self._thread.submit(self._read, following)
        return blocks

    def _after(self, window: int) -> int:
        last = None if self.num_blocks is None else (self.num_blocks - 1) // self.window_size
        return 0 if window == last else window + 1

    def _read(self, window: int) -> Any:
        if self._reader is None or self._reader[0] != window:
            known, state = self._states.nearest(window)
            self._reader = known, self._open(state)
        number, reader = self._reader
        self._reader = None  # where reading fails, it is of no use any more
        for between in range(number, window):  # a position that nobody has kept
            reader.read(self._size(between))
            self._states.keep(between + 1, reader.state)
        blocks = reader.read(self._size(window))
        if self._after(window) == window + 1:
            # Kept before a row is handed out, so that whoever has used up the window can come back to what follows.
            self._states.keep(window + 1, reader.state)
            self._reader = window + 1, reader
        if self.num_blocks is not None and reader.passes and not self._repeats:
            self._repeats = True
            logger.warning(
                "the text of %s ends before the %s blocks of the stream do: it is read again from its beginning",
                self.source.name,
                f"{self.num_blocks:,}",
            )
        return self._finished(blocks)

    def _size(self, window: int) -> int:
        if self.num_blocks is None:
            return self.window_size
        return min(self.window_size, self.num_blocks - window * self.window_size)

    def _open(self, state: dict[str, Any] | None = None) -> Any:
        return StreamReader(
            self.source,
            self.encoder,
            self.left_out,
            width=self.block_size - 1,
            eos_token_id=self.eos_token_id,
            tokens_per_chunk=self.tokens_per_chunk,
            state=state,
        )

    def one_pass(self, num_blocks: int) -> Any:
        """Yield (at most ``num_blocks``, block_size) int32 arrays: the blocks of the text read once, or of the budget."""
        left = self.num_blocks
        for blocks in self._open().one_pass(num_blocks):
            kept = blocks if left is None else blocks[:left]
            yield self._finished(kept)
            if left is not None and (left := left - len(kept)) == 0:
                return

    # Positions.

    def position(self, index: int) -> dict[str, Any]:
        """Return, as plain JSON, what another process needs to read on with block ``index`` at once."""
        window, state = self._states.nearest(index // self.window_size)
        return {"fingerprint": self.fingerprint, "window": window, "state": state}

    def restore(self, position: dict[str, Any]) -> None:
        """Take over what :meth:`position` has returned, so that nothing before it has to be read again.

        Raises:
            UserError: that was of another stream.
        """
        if position["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.source.name} has changed since the checkpoint, or is read in another way: give the data and the "
                "options the run was started with"
            )
        self._states.keep(position["window"], position["state"])


class _WindowStates:
    """Where each window begins: a file of lines, since the workers that read are not the process that saves."""

    def __init__(self) -> None:
        handle, path = tempfile.mkstemp(prefix="hf_difflm-stream-", suffix=".jsonl")
        os.close(handle)
        self.path = Path(path)
        self.keep(0, START)
        weakref.finalize(self, _delete, self.path, os.getpid())

    def keep(self, window: int, state: dict[str, Any]) -> None:
        line = json.dumps([window, state]) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, line.encode())  # whole lines, whoever else is writing
        finally:
            os.close(handle)

    def nearest(self, window: int) -> tuple[int, dict[str, Any]]:
        """The last known window up to ``window``, and its state."""
        best, found = 0, ""
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                number = int(line[1 : line.index(",")])
                if line.endswith("\n") and best <= number <= window:
                    best, found = number, line
        number, state = json.loads(found)
        return number, state


def _delete(path: Path, process: int) -> None:
    if os.getpid() == process:
        path.unlink(missing_ok=True)
