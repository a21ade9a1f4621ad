"""``chat`` in a real terminal of 80 columns: answers that come up out of masks, Ctrl-C, Ctrl-D, lines called back."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hf_difflm.data.conversations.chat_template import PLAIN_TEMPLATE

CLI = Path(__file__).parents[2] / "cli.py"


class Seat:
    """A process at a terminal of 80 columns and 24 lines, and what came to it so far."""

    def __init__(self, *args):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, str(CLI), *map(str, args)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=kept | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
        )
        os.close(theirs)
        self.seen = ""

    def wait_for(self, words, seconds=200):
        """Read on until some words are there; returns what came with them."""
        begun, deadline = len(self.seen), time.monotonic() + seconds
        while words not in self.seen[begun:]:
            if not select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"{words!r} did not come: {self.seen}")
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # how Linux says that the last writer has closed a terminal
                part = b""
            if not part:
                pytest.fail(f"the chat has ended before {words!r} came: {self.seen}")
            self.seen += part.decode("utf-8", "replace").replace("\r\n", "\n")
        return self.seen[begun:]

    def type(self, text):
        os.write(self._ours, text.encode())

    def leave(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def seat():
    seats = []

    def take(*args):
        seats.append(Seat(*args))
        return seats[-1]

    yield take
    for one in seats:
        one.leave()


@pytest.fixture
def folder(tmp_path, tokenizer, tiny_denoiser):
    """An untrained denoiser with a chat template."""
    model = tiny_denoiser(len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    own = AutoTokenizer.from_pretrained(tmp_path / "model")
    own.chat_template = PLAIN_TEMPLATE
    own.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_conversation_in_a_terminal(seat, folder):
    flags = ["--use-cpu", "--max-new-tokens", "20", "--max-denoising-steps", "4", "--watch-seconds", "0"]
    chat = seat("chat", folder, *flags)
    assert "masked diffusion, 64 tokens of context /help lists what you can type" in plain(chat.wait_for("you> "))

    chat.type("Hello\n")
    shown = chat.wait_for("you> ")
    assert "▒▒▒▒" in shown, "masks that are not yet resolved"
    assert "\x1b[1;4;32m" in shown, "what was just written"
    assert "User: Hello" not in shown, "the prompt is not shown again"
    assert "of 20 tokens written" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0, "the cursor comes back"
    left = plain(shown[shown.rindex("\x1b[2K") :])
    assert re.search(r"model> .* \[\d+ tokens in 4 drafts, \d+\.\d s, prompt 23 of 64\] you> $", left)

    chat.type("/undo\n")
    assert "taken back: 'Hello', and its answer; 0 turns" in plain(chat.wait_for("you> "))
    chat.type("/unod\n")
    assert "/unod is no command; did you mean '/undo'?" in plain(chat.wait_for("you> "))
    chat.type("/temp\t0.5\n")
    assert "temperature: 0.5" in plain(chat.wait_for("you> ")), "the tabulator completes commands"
    chat.type("\x03")
    assert "/quit or Ctrl-D ends the chat" in plain(chat.wait_for("you> "))
    chat.type("\x04")
    assert chat.process.wait(timeout=60) == 0


def test_ctrl_c_stops_an_answer_and_leaves_no_trace_of_it(seat, folder):
    chat = seat("chat", folder, "--use-cpu", "--max-new-tokens", "20", "--watch-seconds", "60")
    chat.wait_for("you> ")
    chat.type("Hello\n")
    chat.wait_for("of 20 tokens written")  # the first draft, which would stay for a minute
    chat.type("\x03")
    shown = plain(chat.wait_for("you> "))
    assert "stopped: neither your message nor what was written is kept; /again asks anew" in shown
    assert chat.seen.count("\x1b[?25l") == chat.seen.count("\x1b[?25h") > 0
    chat.type("/undo\n")
    assert "there is no turn to take back" in plain(chat.wait_for("you> "))
    chat.type("\x1b[A\x1b[A\n")  # twice up: the message comes back
    chat.wait_for("of 20 tokens written")
    chat.type("\x03")
    chat.wait_for("you> ")
    chat.type("/quit\n")
    assert chat.process.wait(timeout=60) == 0


def plain(text):
    """The words that a terminal shows, without colours, movements and the ends of lines."""
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text))
