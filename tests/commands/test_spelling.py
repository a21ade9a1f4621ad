"""How flags are read: the settings that reach a training command, whatever way they are spelt."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.commands.application import Application
from hf_difflm.commands.flags import given_flags, with_flags
from hf_difflm.commands.spelling import Commands, TrainingCommand
from hf_difflm.errors import UserError
from hf_difflm.training.declarations.fields import own_fields


def parsed(*args: str) -> dict[str, Any]:
    """Return the flags a training command gets from a command line."""
    seen: dict[str, Any] = {}
    app = Application(cls=Commands)

    @app.command("probe", cls=TrainingCommand)
    @with_flags(own_fields().values())
    def probe(ctx: typer.Context, **flags: Any) -> None:
        seen.update(given_flags(ctx, flags))

    app.command("other")(lambda: None)
    with pytest.raises(SystemExit) as stop:
        app(["probe", *args])
    if stop.value.code:
        raise UserError(stop.value.code)
    return seen


@pytest.mark.parametrize(
    ("args", "flags"),
    [
        ([], {}),
        (["--max-steps", "5"], {"max_steps": "5"}),
        (["--max_steps", "5"], {"max_steps": "5"}),
        (["--max-steps=5"], {"max_steps": "5"}),
        (["--max_steps=-1"], {"max_steps": "-1"}),
        (["--max-steps", "-5"], {"max_steps": "-5"}),
        (["--dataset=a=b"], {"dataset": "a=b"}),
        (["--dataset", ""], {"dataset": ""}),
        (["--bf16"], {"bf16": True}),
        (["--no-bf16"], {"bf16": False}),
        (["--no_bf16"], {"bf16": False}),
        (["--bf16", "true"], {"bf16": True}),
        (["--bf16", "False"], {"bf16": False}),
        (["--save_log_to_json=False"], {"save_log_to_json": False}),
        (["--no-bf16=false"], {"bf16": True}),
        (["--adam-beta2", "0.95"], {"adam_beta2": "0.95"}),
        (["--adam_beta2=0.95"], {"adam_beta2": "0.95"}),
        (["--gradient-checkpointing"], {"gradient_checkpointing": True}),
        (["--no-gradient-checkpointing"], {"no_gradient_checkpointing": True}),
        (["--ddp-timeout", "-1"], {"ddp_timeout": "-1"}),
        (["--max-steps", "5", "--max-steps", "6"], {"max_steps": "6"}),
    ],
)
def test_every_spelling_of_a_flag_is_understood(args, flags):
    assert parsed(*args) == flags


def test_a_value_never_slips_to_another_flag():
    assert parsed("--torch-compile", "--bf16", "false") == {"torch_compile": True, "bf16": False}
    assert parsed("--adam-beta2", "0.9", "--max-steps", "3", "--tf32") == {
        "adam_beta2": "0.9",
        "max_steps": "3",
        "tf32": True,
    }
    with pytest.raises(UserError):
        parsed("--torch-compile", "--max-steps", "5", "0.9")


_FLAGS = st.dictionaries(
    st.sampled_from([*own_fields(), "adam_beta2", "optim", "run_name"]),
    st.text("abc0123456789._/", min_size=1),
    max_size=5,
)


@given(_FLAGS, st.randoms(use_true_random=False))
def test_what_is_written_is_what_arrives(flags, random):
    """Any flags in any order and spelling arrive under their names with their text."""
    args, expected = [], {}
    for name, text in flags.items():
        is_switch = name in own_fields() and own_fields()[name].hint is bool
        expected[name] = bool(len(text) % 2) if is_switch else text
        flag = "--" + (name if random.random() < 0.5 else name.replace("_", "-"))
        value = str(expected[name]).lower() if is_switch else text
        args.append([f"{flag}={value}"] if random.random() < 0.5 else [flag, value])
    random.shuffle(args)
    assert parsed(*[part for parts in args for part in parts]) == expected
