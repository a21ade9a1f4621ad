"""``hf-difflm chat``: load a model, see that one can talk with it, take line after line."""

from __future__ import annotations

from ...data.conversations.formats import SYSTEM
from ...data.conversations.messages import MESSAGES, USER
from ...errors import UserError
from ...evaluation.generation.importance_weights import importance_for
from ...evaluation.generation.options import GenerationOptions
from ...evaluation.generation.spoken_prompts import spoken_prompt
from ...evaluation.targets import Target, load_target
from .answering import Answerer
from .conversation import Conversation
from .screen import screen_of
from .session import Session, words
from .settings import check_options, context_of


def hold_chat(
    target: str,
    options: GenerationOptions,
    *,
    system: str | None = None,
    context: int | None = None,
    live: bool = True,
    frame_seconds: float = 0.03,
    use_cpu: bool = False,
    revision: str | None = None,
    add_bos: bool | None = None,
    bos_token: str | None = None,
) -> bool:
    """Talk with a model until stdin ends or says ``/quit``.

    Args:
        target: see :func:`~hf_difflm.evaluation.targets.load_target`.
        options: of the first answer; commands change them.
        system: message before all turns.
        context: most tokens of prompt and answer together; None: see :func:`context_of`.
        live: show answers while they are written, where there is a terminal.
        frame_seconds: a step is shown at least so long.
        use_cpu, revision, add_bos, bos_token: see :func:`~hf_difflm.evaluation.targets.load_target`.

    Returns:
        Whether something that came through a pipe was refused.

    Raises:
        UserError: nothing to load, no chat template or one without a place for ``system``, options that the model cannot
            fulfil, or an empty pipe.
    """
    loaded = load_target(target, use_cpu=use_cpu, revision=revision, add_bos=add_bos, bos_token=bos_token)
    _check_template(loaded, target, system)
    check_options(loaded, options)
    importance_for(loaded, options)
    screen = screen_of(words())
    conversation = Conversation(loaded.text, context_of(loaded, context), system)
    answerer = Answerer(loaded, screen.view if live else None, frame_seconds)
    session = Session(loaded, conversation, options, answerer, screen)
    if screen.is_terminal:
        screen.note(_greeting(loaded, target, conversation.limit))
    nothing = True
    for line in screen.lines():
        nothing = False
        if not session.take(line):
            break
    if nothing and not screen.is_terminal:
        raise UserError("stdin is empty; write one message on each line, or call chat in a terminal")
    return bool(session.refused) and not screen.is_terminal


def _check_template(loaded: Target, target: str, system: str | None) -> None:
    if getattr(loaded.tokenizer, "chat_template", None) is None:
        raise UserError(
            f"{target} has no chat template, so it is not known how a message is written; fine-tune it on conversations, "
            f"which gives it one: hf-difflm train --init-from {target} --sft --sft-fill-eos --dataset small-talk (or a "
            ".jsonl file of your own)"
        )
    said = {"role": USER, "content": "a"}
    if system is None:
        spoken_prompt(loaded.text, {MESSAGES: [said]})
        return
    if not system.strip():
        raise UserError("--system is empty; leave it out, or give a text")
    prompt, _ = spoken_prompt(loaded.text, {MESSAGES: [{"role": SYSTEM, "content": system}, said]})
    if system.strip() not in prompt:
        raise UserError(f"the chat template of {target} does not write a system message; leave out --system")


def _greeting(loaded: Target, target: str, limit: int | None) -> str:
    kind = "masked diffusion" if loaded.is_denoiser else "autoregressive"
    size = getattr(loaded.model.config, "diffusion_block_size", None)
    blocks = f" in blocks of {size} tokens" if size else ""
    context = "" if limit is None else f", {limit:,} tokens of context"
    return f"{target}: {kind}{blocks}{context}\n/help lists what you can type, Ctrl-D ends"
