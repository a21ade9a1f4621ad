"""``generate --watch`` in a real terminal of 80 columns, and without one; ``--html`` from the command line."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

CLI = Path(__file__).parents[2] / "cli.py"
FLAGS = ["--max-new-tokens", "150", "--max-denoising-steps", "6", "--watch-seconds", "0", "--use-cpu"]


def _environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    return kept | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color", **more}


def _in_terminal(*args, stdout_too=True, **environment):
    """Run a command on a terminal of 80 columns; returns exit code, what came to the terminal, what came to a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(CLI), *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
        env=_environment(**environment),
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError as error:  # how Linux says that the last writer has closed a terminal
            if error.errno != errno.EIO:
                raise
            break
        if not part:
            break
        seen += part
    os.close(ours)
    piped = b"" if stdout_too else process.stdout.read()
    return process.wait(timeout=300), seen.decode().replace("\r\n", "\n"), piped.decode()


@pytest.mark.parametrize("kind", ["trained", pytest.param("trained_ar", marks=pytest.mark.slow)])
def test_a_terminal_shows_drafts_in_colours_and_is_left_with_the_text_alone(hf, request, kind):
    run = request.getfixturevalue(kind)
    flags = FLAGS if kind == "trained" else [*FLAGS[:2], *FLAGS[4:]]
    plain = hf("generate", run, "--prompt", "abc", *flags)
    code, seen, _ = _in_terminal("generate", run, "--prompt", "abc", "--watch", *flags)
    assert code == 0, seen
    assert "\x1b[36mabc" in seen  # given
    assert "\x1b[1;4;32m" in seen  # just written
    assert ("▒▒▒" in seen) == (kind == "trained")
    assert ("masked" in seen) == (kind == "trained")
    assert "of 150 tokens written" in seen
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") > 0  # the cursor comes back
    assert seen.endswith("\x1b[2K" + plain.out)  # after the last line of the view was wiped


def test_data_on_stdout_is_alone_there_while_the_view_goes_to_the_terminal(hf, trained):
    plain = hf("generate", trained, "--jsonl", *FLAGS)
    code, seen, piped = _in_terminal("generate", trained, "--jsonl", "--watch", *FLAGS, stdout_too=False)
    assert code == 0, seen
    assert piped == plain.out
    assert "▒▒▒" in seen


@pytest.mark.slow
def test_without_a_terminal_or_with_a_dumb_one_the_text_comes_out_plainly(hf, trained):
    plain = hf("generate", trained, *FLAGS)
    watched = hf("generate", trained, "--watch", *FLAGS)
    assert (watched.code, watched.out, watched.err) == (0, plain.out, "")
    code, seen, _ = _in_terminal("generate", trained, "--watch", *FLAGS, TERM="dumb")
    assert (code, seen) == (0, plain.out)


def test_the_page_holds_every_text_and_names_no_place_of_this_machine(hf, trained, tmp_path):
    result = hf("generate", trained, "--prompt", "abc", "--num-samples", "3", "--html", tmp_path / "page.html", *FLAGS)
    assert result.code == 0, result.err
    assert "page.html" in result.err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('<section class="sample">') == 3
    assert "max_denoising_steps" in page
    assert "<tr><th>sampler</th><td>ddpm_cache</td></tr>" in page  # what was not asked for is told too
    assert "masked</span>" in page
    assert str(tmp_path) not in page


def test_the_page_of_a_causal_lm_speaks_of_no_masks(hf, trained_ar, tmp_path):
    flags = ["--max-new-tokens", "6", "--use-cpu", "--html", tmp_path / "page.html"]
    assert hf("generate", trained_ar, *flags).code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "masked</span>" not in page
    assert "<tr><th>sampler</th>" not in page


QUIET = """
import sys
from hf_difflm.commands import app
try:
    app(["generate", *sys.argv[1:]])
except SystemExit as stop:
    assert not stop.code, stop.code
imported = "datasets" in sys.modules
import datasets
print(imported, datasets.is_progress_bar_enabled())
"""


@pytest.mark.slow
def test_generating_imports_no_datasets_and_its_bars_stay_off_where_it_is_imported_later(trained):
    environment = _environment(PYTHONPATH=str(CLI.parent))
    command = [sys.executable, "-c", QUIET, str(trained), *FLAGS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
