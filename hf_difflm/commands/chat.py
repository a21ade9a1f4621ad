"""``hf-difflm chat``: a conversation with a trained model in the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from ..data.options import TextOptions
from ..evaluation.generation.options import GenerationOptions
from ..training.declarations.fields import fields_of
from .flags import pick_fields, typed_flags, with_flags


@dataclass
class ChatOptions:
    """Flags of the command alone."""

    system: str | None = field(
        default=None, metadata={"help": "what stands before the conversation, written by the chat template"}
    )
    context: int | None = field(
        default=None,
        metadata={
            "help": "tokens of prompt and answer together, beyond which the oldest turns are left out; default: those of the "
            "rows it was trained on, else as many as it takes",
            "min": 1,
        },
    )
    live: bool = field(default=True, metadata={"help": "show each answer while it is written, masks and all"})
    watch_seconds: float = field(
        default=0.03, metadata={"help": "each step is shown at least so long", "min": 0.0, "max": 60.0}
    )


OWN = fields_of(ChatOptions, "generation")
# Nothing that is said has holes.
OPTIONS = {name: one for name, one in fields_of(GenerationOptions, "generation").items() if name != "infill"}
TEXT = fields_of(TextOptions, "zero_shot")
FIELDS = OWN | OPTIONS | TEXT | pick_fields("use_cpu", "revision")


@with_flags(FIELDS.values())
def chat(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    **flags: Any,
) -> None:
    """Talk with a model that has a chat template: a line is a message, /help lists what else can be typed.

    In a pipe each line of stdin is a message, and the answers alone go to stdout.
    """
    values = typed_flags(FIELDS, flags)
    own = ChatOptions(**{name: value for name, value in values.items() if name in OWN})
    options = GenerationOptions(**{name: value for name, value in values.items() if name in OPTIONS})
    from ..serving.terminal.opening import hold_chat
    from .quiet import quiet_libraries

    quiet_libraries()
    refused = hold_chat(
        target,
        options,
        system=own.system,
        context=own.context,
        live=own.live,
        frame_seconds=own.watch_seconds,
        use_cpu=values.get("use_cpu", False),
        revision=values.get("revision"),
        **{name: value for name, value in values.items() if name in TEXT},
    )
    if refused:
        raise typer.Exit(2)
