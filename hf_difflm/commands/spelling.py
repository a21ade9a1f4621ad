"""How a command line is read: spellings of a flag, switches with a value, and flags only TrainingArguments knows.

Everything is brought into the plain form ``--kebab-case value`` / ``--switch`` / ``--no-switch`` before typer's own
parser sees it, so that a misspelt flag is an error wherever it stands and no value can slip from one flag to another.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import UserError, did_you_mean
from ..training.declarations.other_names import hint_for
from ..training.declarations.typed_values import FALSE_WORDS, TRUE_WORDS
from .help_pages import COMMON, write_commands, write_options

_TRAINER_FLAGS = "hf_difflm.trainer_flags"
_OTHER_COMMANDS = {
    "sample": "generate",
    "infer": "generate",
    "inference": "generate",
    "chat": "generate --chat",
    "finetune": "train --init-from",
    "fine-tune": "train --init-from",
    "sft": "train --sft --init-from",
    "pretrain": "train",
    "fit": "train",
    "evaluate": "eval",
    "test": "eval",
    "upload": "push",
    "prepare": "data prepare",
    "ls": "list",
}
"""What other programs call a command."""
_WITH_SHARE = re.compile(r"=\d*\.?\d+$")
_NEGATIVE_NUMBER = re.compile(r"-\.?\d")


class Commands(TyperGroup):
    """The group of all subcommands; names the nearest one when there is none of that name."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            meant = _OTHER_COMMANDS.get(cmd_name, "")
            known = meant.partition(" ")[0] in self.commands
            hint = f"; did you mean {meant!r}?" if known else did_you_mean(cmd_name, self.commands)
            hint = hint or f"; the commands are {', '.join(self.commands)}"
            raise UserError(f"command {cmd_name!r} is unknown{hint}")
        return command

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(ctx, formatter, self.get_params(ctx), only=None)
        write_commands(ctx, formatter, self.commands)


class Command(TyperCommand):
    """A subcommand that takes ``--kebab-case`` and ``--snake_case`` flags, and ``--switch=true`` for ``--switch``."""

    takes_trainer_flags = False

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(ctx, formatter, self.get_params(ctx), only=COMMON if self.takes_trainer_flags else None)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # ctx is a click.Context; typer has its own click in some versions and click's in others.
        if ctx.resilient_parsing:  # a shell completes a line that is not whole yet
            return super().parse_args(ctx, args)
        plain, trainer_flags = self._plain(ctx, args)
        ctx.meta[_TRAINER_FLAGS] = trainer_flags
        return super().parse_args(ctx, plain)

    def _plain(self, ctx: Any, args: list[str]) -> tuple[list[str], dict[str, Any]]:
        """Return the arguments in plain form, and the undeclared flags by snake_case name (True: no value)."""
        options = {flag: param for param in self.get_params(ctx) for flag in (*param.opts, *param.secondary_opts)}
        plain: list[str] = []
        trainer_flags: dict[str, Any] = {}
        left = _mixtures_joined(args)
        while left:
            token = left.pop(0)
            if token == "--":
                return [*plain, token, *left], trainer_flags
            if not token.startswith("--"):
                plain.append(token)
                continue
            written, has_value, value = token.partition("=")
            flag = written.replace("_", "-")
            if not flag.strip("-"):
                raise UserError(f"flag {token!r} has no name; see `{ctx.command_path} --help`")
            option = options.get(flag)
            if option is not None and not getattr(option, "is_flag", False):
                plain += [flag, value if has_value else _next_value(flag, left)]
            elif option is not None:
                if not has_value and left and left[0].lower() in ("true", "false"):
                    has_value, value = "=", left.pop(0)
                plain.append(_switch(flag, option, value) if has_value else flag)
            elif self.takes_trainer_flags:
                if not has_value and left and (not left[0].startswith("-") or _NEGATIVE_NUMBER.match(left[0])):
                    has_value, value = "=", left.pop(0)
                trainer_flags[flag[2:].replace("-", "_")] = value if has_value else True
            else:
                known = [one for one in options if one.startswith("--")]
                hint = hint_for(flag, known, flag=True) or f"; see `{ctx.command_path} --help`"
                raise UserError(f"flag {written} is unknown{hint}")
        return plain, trainer_flags


class TrainingCommand(Command):
    """A subcommand that also takes every flag of TrainingArguments; ``load_settings`` checks those."""

    takes_trainer_flags = True


def trainer_flags(ctx: typer.Context) -> dict[str, Any]:
    """Return the flags of this command line that no option declares, by snake_case name; True where no value came."""
    return ctx.meta[_TRAINER_FLAGS]


def declared_flags(ctx: typer.Context) -> list[str]:
    """Return all flags that the running command declares, as typed: ``["--recipe", ...]``."""
    return [flag for param in ctx.command.get_params(ctx) for flag in (*param.opts, *param.secondary_opts)]


def _next_value(flag: str, left: list[str]) -> str:
    if not left or left[0].startswith("--"):
        got = f", got the flag {left[0]}; write {flag}=VALUE if that is the value" if left else ""
        raise UserError(f"{flag} needs a value{got}")
    return left.pop(0)


def _switch(flag: str, option: Any, value: str) -> str:
    """Return the plain form of ``--switch=true`` and ``--switch=false``."""
    if value.lower() not in TRUE_WORDS + FALSE_WORDS:
        raise UserError(f"{flag} must be true or false, got {value!r}")
    if value.lower() in TRUE_WORDS:
        return flag
    if not option.secondary_opts:
        raise UserError(f"{flag} cannot be set to {value}: leave it out")
    opposite = option.opts if flag in option.secondary_opts else option.secondary_opts
    return opposite[0]


def _mixtures_joined(args: list[str]) -> list[str]:
    """Make one value of ``--dataset a.jsonl=0.7 b/=0.3``."""
    joined: list[str] = []
    for token in args:
        mixes = len(joined) > 1 and joined[-2] == "--dataset" and _WITH_SHARE.search(joined[-1])
        if mixes and not token.startswith("--") and _WITH_SHARE.search(token):
            joined[-1] += f" {token}"
        else:
            joined.append(token)
    return joined
