"""A verdict in words: what is refused, what is told once, and one line for logs and cards."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UserError
from ..masked_diffusion.diffusion_blocks import BLOCK_KERNELS
from .verdict import BOTH, CAUSAL, PART_CAUSAL, POINTWISE, Verdict

ALLOW = "--allow-causal-layers"
ROUTER = "--router-aux-loss"
_MOST_NAMES = 3


def direction_said(verdict: Verdict, longest: int | None = None) -> str:
    """``both sides``, ``causal``, ``both sides, 512 each way in 3 of 4 layers``, ``both sides; causal layers: 0, 1, 2``.

    Args:
        verdict: what was found.
        longest: positions that the network takes; a reach that is no shorter is no limit. None: unknown.
    """
    if verdict.error is not None:
        return f"not measured ({verdict.error})"
    said = BOTH if verdict.direction == PART_CAUSAL else verdict.direction
    limits = _limits(verdict, longest)
    if limits:
        said += f", {limits}"
    if verdict.direction == PART_CAUSAL:
        said += f"; causal layers: {layers_said(verdict.causal_layers)}"
    return said


def _limits(verdict: Verdict, longest: int | None) -> str:
    """``512 each way in 3 of 4 layers``; empty where each layer reads as far as there is text."""
    backs = verdict.back or (-1,) * verdict.layers
    aheads = verdict.ahead or (-1,) * verdict.layers
    reads: dict[str, int] = {}
    for layer, (back, ahead) in enumerate(zip(backs, aheads, strict=False)):
        if layer in verdict.causal_layers or verdict.direction == CAUSAL:
            ahead = 0
        back, ahead = (-1 if longest is not None and reach >= longest - 1 else reach for reach in (back, ahead))
        if back == ahead == 0:
            continue  # it mixes no positions
        if ahead == 0:
            text = "" if back == -1 else f"{back:,} back"
        elif back == ahead:
            text = "" if back == -1 else f"{back:,} each way"
        else:
            text = f"{_far(back)} back and {_far(ahead)} ahead"
        reads[text] = reads.get(text, 0) + 1
    count = sum(reads.values())
    found = [text if n == count else f"{text} in {n} of {count} layers" for text, n in reads.items() if text]
    return ", ".join(found)


def _far(reach: int) -> str:
    return "all" if reach == -1 else f"{reach:,}"


def layers_said(layers: Sequence[int]) -> str:
    """``0, 1, 2`` or, where they are many, ``0-3, 5-8``."""
    if len(layers) <= 4:
        return ", ".join(map(str, layers))
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def refuse_unfit(verdict: Verdict, *, allow_causal_layers: bool = False, router_aux_loss: float | None = None) -> None:
    """Refuse a backbone that is not what is asked of it.

    Raises:
        UserError: a denoiser that does not read both sides, or not in every batch and kernel; a causal LM that reads the
            token it predicts; one that is another model once it is loaded again; a router loss for one that has none.
    """
    name = f"backbone {verdict.model_type!r}"
    if router_aux_loss is not None and verdict.router_loss is not True:
        raise UserError(f"router_aux_loss {router_aux_loss:g} has no effect: {name} has no router loss; leave it out")
    if verdict.error is not None:
        return  # nothing is known: what builds and runs it says what is wrong
    if verdict.role == "denoiser":
        _refuse_denoiser(verdict, name, allow_causal_layers)
    else:
        for direction, when in ((verdict.direction, ""), (verdict.padded_direction, " in padded batches")):
            if direction in (BOTH, PART_CAUSAL):
                raise UserError(
                    f"{name} reads ahead as a causal LM{when}: its likelihood would be that of one that sees the token it "
                    "predicts; use a decoder such as llama, or --objective mdlm"
                )
        if verdict.right_padding is False:
            raise UserError(
                f"{name} gives something else for a row that is padded, which would be two models under one name; use "
                "another backbone such as llama"
            )
    if verdict.same_after_loading is False:
        raise UserError(
            f"{name} computes something else after it is saved and loaded again; use another backbone such as llama"
        )


def refuse_kernel(kernel: str | None) -> None:
    """Refuse an attention kernel that takes no mask of blocks.

    Raises:
        UserError: it is none of those that do.
    """
    if kernel not in BLOCK_KERNELS:
        raise UserError(
            f"block diffusion does not run with attn_implementation {kernel}; use {' or '.join(BLOCK_KERNELS)}"
        )


def refuse_blocks(verdict: Verdict, longest: int | None) -> None:
    """Refuse a backbone on which block diffusion would be something else.

    Args:
        verdict: what was found, blocks included.
        longest: positions that the network takes; a window that is no shorter is none. None: unknown.

    Raises:
        UserError: it reads what it must not, or does not read what it must; it has windows, or does not run.
    """
    name, advice = f"backbone {verdict.model_type!r}", "use another backbone such as llama, or --objective mdlm"
    why = verdict.no_blocks
    if verdict.error is not None:
        why = f"it does not run ({verdict.error.rstrip('.')})"
    elif why is None and (limits := _limits(verdict, longest)):
        why = f"it reads {limits}, and windows are not there yet (max_position_embeddings says that no text is longer)"
    elif why is None and verdict.reads_padding:
        why = "padding changes a row of it"
    if why is not None:
        raise UserError(f"{name} does not take block diffusion: {why}; {advice}")


def refuse_documents(verdict: Verdict | None, name: str, kernel: str | None, longest: int | None) -> None:
    """Refuse a network that does not keep documents of one row apart.

    Args:
        verdict: what was found, documents included; None: nothing.
        name: of the family.
        kernel: attention kernel that is asked for.
        longest: positions that the network takes; a window that is no shorter is none. None: unknown.

    Raises:
        UserError: it takes no mask of documents, reads over their borders, or has windows, which the mask would replace.
    """
    why = None
    if kernel not in BLOCK_KERNELS:
        why = f"attn_implementation {kernel} takes no mask of documents ({' and '.join(BLOCK_KERNELS)} do)"
    elif verdict is not None and verdict.error is not None:
        why = f"it does not run ({verdict.error.rstrip('.')})"
    elif verdict is not None:
        why = verdict.no_documents
        if why is None and (limits := _limits(verdict, longest)):
            why = f"it reads {limits}, and a mask of documents would take the place of its windows"
    if why is not None:
        raise UserError(
            f"backbone {name!r} does not keep documents of one row apart: {why}; set packing to concat, or use another "
            "backbone such as llama"
        )


def _refuse_denoiser(verdict: Verdict, name: str, allow_causal_layers: bool) -> None:
    if verdict.direction == CAUSAL and verdict.padded_direction in (CAUSAL, None):
        raise UserError(
            f"{name} is causal in {_each_layer(verdict.layers)}, and a denoiser has to read both sides; use another "
            "backbone such as llama, or --objective ar"
        )
    if verdict.direction == POINTWISE:
        raise UserError(
            f"{name} reads no other position than its own here, and a denoiser has to read both sides; use another backbone "
            "such as llama"
        )
    if verdict.padded_direction not in (None, verdict.direction) and verdict.direction != PART_CAUSAL:
        raise UserError(
            f"{name} reads {verdict.direction} without padding but {verdict.padded_direction} with it, which would be two "
            "models under one name; use another backbone such as llama"
        )
    if verdict.kernels_agree is False:
        raise UserError(
            f"{name} computes something else with the attention kernel {verdict.kernels[0]} than with {verdict.kernels[1]}, "
            "which would be two models under one name; use another backbone such as llama"
        )
    if verdict.direction == PART_CAUSAL and not allow_causal_layers:
        layers = f"layer{'s' * (len(verdict.causal_layers) > 1)} {layers_said(verdict.causal_layers)}"
        raise UserError(
            f"{name} is causal in {layers} of its {verdict.layers}, and a denoiser has to read both sides; use another "
            f"backbone such as llama, or go on with {ALLOW}"
        )


def _each_layer(layers: int) -> str:
    if layers == 0:
        return "all that it reads"  # its own weights were asked, and no configuration
    return "its only layer" if layers == 1 else f"each of its {layers} layers"


def told(verdict: Verdict, longest: int | None = None, router_aux_loss: float | None = None) -> list[str]:
    """What is to be said once of a backbone that is taken, one clause each.

    Args:
        verdict: what was found.
        longest: positions that the network takes.
        router_aux_loss: coefficient of the router loss; None: none.
    """
    if verdict.error is not None:
        return [f"what it reads is {direction_said(verdict)}"]
    found = []
    said = direction_said(verdict, longest)
    if said != verdict.direction:
        found.append(f"it is {said}" if verdict.direction == CAUSAL else f"it reads {said}")
    if verdict.role == "denoiser" and verdict.reads_padding:
        sides = [side for side in ("right", "left") if getattr(verdict, f"{side}_padding") is not True]
        found.append(
            f"padding on the {' or '.join(sides)} changes a row, so that rows of several lengths go through it one by one"
        )
    if verdict.deterministic is False:
        found.append("the same input does not give the same twice")
    if verdict.without_gradient:
        found.append(f"no gradient reaches {named(verdict.without_gradient)}")
    if verdict.router_loss is not None and router_aux_loss is None:
        advice = f"{ROUTER} adds one" if verdict.router_loss else "its family has none"
        found.append(f"its experts are balanced by no router loss (loss-free routing; {advice})")
    if verdict.bias_by_distance and verdict.role == "denoiser":
        found.append("its bias by distance (ALiBi) favours near tokens, and was made for reading back")
    return found


def verdict_said(verdict: Verdict) -> str:
    """Direction, whether it is taken, and what is told of it, in one line."""
    if verdict.error is not None:
        return f"does not run ({_shortened(verdict.error)})"
    said = direction_said(verdict)
    try:
        refuse_unfit(verdict)
    except UserError as error:
        if verdict.direction == PART_CAUSAL and ALLOW in str(error):
            said += f" (needs {ALLOW})"
        elif verdict.direction == CAUSAL and verdict.role == "denoiser":
            said += " (refused)"
        else:
            said += f" (refused: {_why(str(error))})"
    if verdict.kernels == ("eager",):
        said += "; eager attention only"
    if verdict.role == "denoiser" and verdict.reads_padding:
        said += "; padding changes a row"
    if verdict.without_gradient:
        said += f"; no gradient for {len(verdict.without_gradient)} parameters"
    if verdict.bias_by_distance:
        said += "; ALiBi"
    return said


def _why(sentence: str) -> str:
    """What the sentence of a refusal says between the family's name and the advice."""
    return sentence.split("' ", 1)[1].split(";")[0].split(", which")[0].split(":")[0]


def _shortened(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def named(parameters: Sequence[str]) -> str:
    """``a``, ``a and b`` or ``a, b, c and 5 more parameters``."""
    if len(parameters) <= _MOST_NAMES:
        return " and ".join(parameters)
    return f"{', '.join(parameters[:_MOST_NAMES])} and {len(parameters) - _MOST_NAMES} more parameters"
