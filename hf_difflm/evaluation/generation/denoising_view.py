"""A generation live in the terminal: masked, just written and settled tokens in different colours."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ...runs.journal.tables import printable
from .denoising_frames import GIVEN, HIDDEN, MASK, MASKED, NEW, SETTLED, Frame, TokenText

# Not by colour alone: dim, bold and underlined are seen without colours too.
STYLES = {GIVEN: "cyan", MASKED: "dim", NEW: "bold underline green", SETTLED: ""}
_NAMES = {GIVEN: "given", MASKED: "masked", NEW: "just written", SETTLED: "settled"}


def terminal_for_view(data_on_stdout: bool) -> Console | None:
    """Return the terminal to draw on: that of stdout, or of stderr where stdout is for data or goes to a file.

    None where neither is a terminal that can be drawn on.
    """
    streams: list[TextIO] = [sys.stderr] if data_on_stdout else [sys.stdout, sys.stderr]
    for stream in streams:
        console = Console(file=stream, highlight=False)
        if stream.isatty() and not console.is_dumb_terminal:
            return console
    return None


class DenoisingView:
    """Shows frames one after the other in the same place, and leaves the terminal as it was.

    Args:
        text: the text of tokens.
        console: the terminal.
        frame_seconds: a frame stays at least so long.
        shows_given: show what is given, too, and not only what is written.
    """

    def __init__(self, text: TokenText, console: Console, frame_seconds: float, shows_given: bool = True) -> None:
        self._text, self._console, self._frame_seconds = text, console, frame_seconds
        self._shows_given = shows_given
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            redirect_stdout=False,  # data goes out beside the view
            redirect_stderr=False,
        )
        self._next = 0.0

    def __enter__(self) -> DenoisingView:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, frame: Frame) -> None:
        """Show a frame, once the one before has been seen."""
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._live.update(self.drawing(frame), refresh=True)
        self._next = time.monotonic() + self._frame_seconds

    def drawing(self, frame: Frame) -> Any:
        """Return the frame as lines that fit the terminal: around the first line that is not settled."""
        lines: list[Text] = []
        active: int | None = None
        for row in range(len(frame.ids_BL)):
            if len(frame.ids_BL) > 1:
                lines.append(Text(f"--- sample {frame.start.rows[row] + 1}", style="bold"))
            for line in self._lines(frame, row):
                if active is None and any(span.style in (STYLES[MASKED], STYLES[NEW]) for span in line.spans):
                    active = len(lines)
                lines.append(line)
        room = max(1, self._console.size.height - 3)
        first = min(max(0, (len(lines) if active is None else active) - room // 4), max(0, len(lines) - room))
        return Group(*lines[first : first + room], self._status(frame), self._legend(frame))

    def _lines(self, frame: Frame, row: int) -> list[Text]:
        """Lines of full width, cut between any two characters: words that come up must not move what stands there."""
        width = max(2, self._console.size.width)
        glyph = "_" if self._console.options.ascii_only else MASK
        lines, used = [Text(no_wrap=True)], 0
        state_L = frame.state_BL[row]
        if not self._shows_given:
            state_L = np.where(state_L == GIVEN, HIDDEN, state_L)
        for piece, state in self._text.runs(frame.ids_BL[row], state_L):
            shown = glyph * len(piece) if state == MASKED else printable(piece).replace("\t", "    ")
            for place, part in enumerate(shown.split("\n")):
                if place:
                    lines.append(Text(no_wrap=True))
                    used = 0
                while part:
                    fits = _fitting(part, width - used)
                    lines[-1].append(part[:fits], style=STYLES[state])
                    used += cell_len(part[:fits])
                    part = part[fits:]
                    if part:
                        lines.append(Text(no_wrap=True))
                        used = 0
        return lines

    def _status(self, frame: Frame) -> Text:
        counts = [frame.progress(row) for row in range(len(frame.ids_BL))]
        done, total = sum(count[0] for count in counts), sum(count[1] for count in counts)
        unit = "token" if frame.start.mask_id is None else "draft"
        status = f"{unit} {frame.number} | {done:,} of {total:,} tokens written"
        return Text(status, style="dim", no_wrap=True, overflow="crop")

    def _legend(self, frame: Frame) -> Text:
        legend = Text(no_wrap=True, overflow="crop")
        for state, name in _NAMES.items():
            if state == GIVEN and not self._shows_given:
                continue
            if state != MASKED or frame.start.mask_id is not None:  # a causal LM masks nothing
                legend.append(name, style=STYLES[state]).append("  ")
        return legend


def _fitting(text: str, cells: int) -> int:
    """How many characters of a text fit into so many cells of a terminal."""
    used = 0
    for place, char in enumerate(text):
        used += cell_len(char)
        if used > cells:
            return place
    return len(text)
