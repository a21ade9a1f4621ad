"""Where lines come from and answers go: a terminal with line editing, or pipes."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from ...evaluation.generation.denoising_view import terminal_for_view
from ...evaluation.generation.prompts import stdin_lines
from ...runs.journal.tables import printable

ASKS = "you> "
ANSWERS = "model> "


class Screen(Protocol):
    """What a session reads from and writes to.

    Attributes:
        is_terminal: somebody sits before it.
        view: the terminal to draw an answer on while it is written; None: there is none.
    """

    is_terminal: bool
    view: Console | None

    def lines(self) -> Iterator[str]: ...

    def answer(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def refuse(self, sentence: str) -> None: ...


class Pipes:
    """Lines of stdin in, answers alone on stdout; all else goes to stderr."""

    is_terminal = False
    view: Console | None = None

    def lines(self) -> Iterator[str]:
        """Yield lines as they come.

        Raises:
            UserError: stdin is no UTF-8.
        """
        return stdin_lines()

    def answer(self, text: str) -> None:
        print(printable(text), flush=True)

    def note(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    def refuse(self, sentence: str) -> None:
        self.note(f"error: {sentence}")


class Terminal:
    """Lines that can be edited and called back, with the commands behind the tabulator; answers below them.

    Args:
        words: that the tabulator completes.
    """

    is_terminal = True

    def __init__(self, words: Sequence[str]) -> None:
        self.view = terminal_for_view(data_on_stdout=False)
        self._console = Console(highlight=False, emoji=False)
        with contextlib.suppress(ImportError):  # Windows has none: lines are edited as its terminal does it
            _complete(importlib.import_module("readline"), words)

    def lines(self) -> Iterator[str]:
        """Yield lines until Ctrl-D; Ctrl-C begins a new one."""
        while True:
            try:
                yield input(ASKS)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                self.note("/quit or Ctrl-D ends the chat")
            except UnicodeDecodeError as error:
                self.refuse(f"what was typed is not UTF-8 ({error.reason}); set the terminal to UTF-8")

    def answer(self, text: str) -> None:
        self._console.print(Text(ANSWERS, style="bold green"), end="")
        print(printable(text), flush=True)  # not wrapped: it can be copied as it is

    def note(self, text: str) -> None:
        self._console.print(Text(printable(text), style="dim"))

    def refuse(self, sentence: str) -> None:
        self._console.print(Text(printable(sentence), style="yellow"))


def screen_of(words: Sequence[str]) -> Screen:
    """Return a terminal where stdin and stdout are one, else pipes."""
    return Terminal(words) if sys.stdin.isatty() and sys.stdout.isatty() else Pipes()


def _complete(readline: Any, words: Sequence[str]) -> None:
    """Complete words that begin a line."""

    def completer(begun: str, number: int) -> str | None:
        found = [f"{word} " for word in words if word.startswith(begun)] if begun.startswith("/") else []
        return found[number] if number < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(completer)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
