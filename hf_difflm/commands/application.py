"""The command-line application: what every subcommand shares - the way in, the way out, and how errors are told."""

from __future__ import annotations

import atexit
import os
import select
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from .. import __version__
from ..errors import UserError
from .spelling import Commands

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_COMPLETION = "_HF_DIFFLM_COMPLETE"  # as the scripts of --install-completion set it
_WITHOUT_ARGUMENTS = {
    "hf-difflm compare": "compare takes no runs, since it trains them; `hf-difflm runs compare` compares those that are there"
}
"""What is said to arguments of commands that take none, where people expect some."""
BROKEN_PIPE = 141  # 128 + SIGPIPE


class Application(typer.Typer):
    """A typer application that tells bad input in one line: ``error: ...`` on stderr, exit code 2, no traceback."""

    def __call__(self, args: Sequence[str] | None = None, prog_name: str = "hf-difflm") -> NoReturn:
        """Run one command line (``sys.argv`` by default) and exit: 0, 2 for bad input, 130 when interrupted."""
        ending: dict[str, int] = {}
        if args is None:  # the process is this command's: nothing comes after it
            atexit.register(_end_at_once, ending)
        if _COMPLETION in os.environ:  # the shell asks what may come next
            self._parser.main(prog_name="hf-difflm", complete_var=_COMPLETION)
        try:
            code = self._run(list(sys.argv[1:] if args is None else args), prog_name)
            if _has_other_processes():
                ending["code"] = code
                if code == 0:  # where something failed, others may wait for this process
                    sys.modules["torch.distributed"].destroy_process_group()
            sys.stdout.flush()
        except BrokenPipeError:
            if not _reader_has_gone():
                raise
            # `hf-difflm ... | head` is no error; what is left in the buffer must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BROKEN_PIPE
        sys.exit(code)

    @cached_property
    def _parser(self) -> Any:
        """All commands with all their flags; a program that calls several has them built once."""
        return get_command(self)

    def _run(self, args: list[str], prog_name: str) -> int:
        try:
            with self._parser.make_context(prog_name, args) as ctx:
                self._parser.invoke(ctx)
        except typer.Exit as stop:
            return stop.exit_code
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except _USAGE_ERROR as error:
            print(f"error: {_usage_sentence(error)}", file=sys.stderr)
            return 2
        except (KeyboardInterrupt, typer.Abort):
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return 0


def _has_other_processes() -> bool:
    """Return whether this process was launched together with others and has talked to them."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _end_at_once(ending: dict[str, int]) -> None:
    """Leave one process of several before the interpreter is taken down, with the code in ``ending`` if there is one.

    A thread of gloo that drops a tensor during finalization aborts the process now and then, after all work is done and
    with another exit code than ours (https://github.com/pytorch/pytorch/pull/179291); destroying the process group is no
    cure while a wrapped model still holds it. Registered first, so that this runs after what trackers registered.
    """
    if "code" in ending:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending["code"])


# Older typers use the click package and newer ones a copy of their own: this is UsageError in both.
_USAGE_ERROR: Any = typer.BadParameter.__base__


def _usage_sentence(error: Any) -> str:
    """Return what the parser complains about as one sentence that ends in where to look."""
    sentence = " ".join(error.format_message().split()).rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else "hf-difflm"
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help, which is no sentence
        return f"{path} needs a command: {', '.join(error.ctx.command.commands)}; see `{path} --help`"
    if not sentence:
        return f"the command line cannot be read; see `{path} --help`"
    if sentence.endswith("extra argument(s) ()"):
        return f"an argument is empty (''), as an unset variable of a shell leaves it; see `{path} --help`"
    if "extra argument" in sentence and path in _WITHOUT_ARGUMENTS:
        return _WITHOUT_ARGUMENTS[path]
    return f"{sentence[:1].lower()}{sentence[1:]}; see `{path} --help`"


def _reader_has_gone() -> bool:
    """Return whether stdout is a pipe that nobody reads any more; other broken pipes are errors like any other."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


app = Application(
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


_BESIDE = ("torch", "transformers", "accelerate")


def _installed(name: str) -> str:
    """The version of a package, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf-difflm {__version__} ({', '.join(f'{name} {_installed(name)}' for name in _BESIDE)})")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train masked diffusion language models next to their autoregressive twin."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
