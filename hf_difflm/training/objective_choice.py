"""Which objective the arguments name, checked against the model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from ..errors import UserError
from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from ..objectives import (
    AdaptiveSettings,
    BlockDiffusionObjective,
    CausalObjective,
    CountLaw,
    MaskedDiffusionObjective,
    Objective,
    adaptive_objective,
    count_tokens,
)
from ..objectives.names import DIFFUSION, OBJECTIVES
from .arguments import DiffusionTrainingArguments
from .noise_combinations import check_noise, read_block_sizes
from .options import DiffusionOptions

_STREAM_ROWS = 4096  # of a stream are counted: enough to tell common from rare, and read in seconds


def objective_for(
    args: DiffusionTrainingArguments, model: Any, train_dataset: Any = None, bos_token_id: int | None = None
) -> Objective:
    """The objective ``args`` describe, for this model.

    Args:
        args: the arguments.
        model: what it trains.
        train_dataset: whose tokens are counted, where the objective needs their frequencies.
        bos_token_id: a row without labels that starts with it has it as context, as in the :class:`Collator`.

    Raises:
        UserError: the model is not of the kind the objective trains; settings that make no objective.
    """
    config: Any = getattr(model, "config", None)
    is_denoiser = getattr(config, "model_type", None) == "masked_diffusion"
    if args.objective == "ar":
        if is_denoiser:
            raise UserError(
                "objective ar needs a causal LM, but the model is a masked diffusion model; use objective mdlm"
            )
        return CausalObjective()
    if args.objective not in DIFFUSION:
        raise UserError(f"objective must be {', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}, got {args.objective!r}")
    if not is_denoiser:
        raise UserError(
            f"objective {args.objective} needs a MaskedDiffusionForMaskedLM, but the model is a {type(model).__name__}; "
            "use objective ar"
        )
    check_noise(vars(args))
    _check_schedule(args, config.schedule())
    _check_blocks(args, config.diffusion_block_size)
    noise: dict[str, Any] = {
        "loss_form": args.loss_form,
        "noise_sampling": args.noise_sampling,
        "schedule": config.schedule(),
        "static_shapes": args.static_shapes,
        "count_law": count_law(vars(args)),
        "loss_weight": args.loss_weight,
    }
    if args.objective == "bd3lm":
        if args.static_shapes and config.diffusion_block_start == "answer":
            raise UserError(
                "static_shapes needs diffusion blocks that begin with the text, but the model's begin at answers, which "
                "differ in length; leave it out"
            )
        blocks = BlockDiffusionObjective(
            config.mask_token_id,
            config.diffusion_block_size,
            diffusion_block_start=config.diffusion_block_start,
            size_schedule=read_block_sizes(args.diffusion_block_size_schedule),
            **noise,
        )
        if args.max_steps > 0:
            blocks.begin(args.max_steps)
        return blocks
    p0 = MaskedDiffusionObjective(config.mask_token_id, **noise)
    if args.objective == "mdlm":
        return p0
    settings = adaptive_settings(vars(args))
    counts_V = None
    if settings.needs_counts:
        if train_dataset is None:
            raise UserError(
                f"importance {settings.importance} needs the token frequencies of a training set, and there is none; pass "
                "train_dataset, or choose importance learned_only or none"
            )
        counts_V = token_counts(train_dataset, config.vocab_size, bos_token_id)
    objective = adaptive_objective(config, p0, settings, counts_V, args.seed)
    if args.max_steps > 0:
        objective.begin(args.max_steps)
    return objective


def _check_blocks(args: DiffusionTrainingArguments, size: int | None) -> None:
    """Raise UserError where objective and model do not agree on the blocks of block diffusion."""
    if args.objective != "bd3lm":
        if size is not None:
            raise UserError(
                f"the model has diffusion blocks of {size} tokens, but the objective is {args.objective}; train it with "
                "objective bd3lm"
            )
        return
    if size is None:
        raise UserError(
            "objective bd3lm needs a model with diffusion blocks, but this one has none; give diffusion_block_size to "
            "MaskedDiffusionConfig"
        )
    if args.diffusion_block_size not in (None, size):
        raise UserError(
            f"diffusion_block_size is {args.diffusion_block_size}, but the model was built with {size}; leave it out, or "
            "give it to MaskedDiffusionConfig"
        )
    sizes = read_block_sizes(args.diffusion_block_size_schedule)
    if sizes and sizes[-1] != size:
        raise UserError(
            f"diffusion_block_size_schedule must end with the {size} tokens that the model was built with, but ends with "
            f"{sizes[-1]}; change one of them"
        )


def _check_schedule(args: DiffusionTrainingArguments, schedule: NoiseSchedule) -> None:
    """Raise UserError where a noise schedule is asked for that the model has not, whose own is what it is trained with."""
    own = {
        "noise_schedule": schedule.name,
        "schedule_exponent": schedule.exponent,
        "sigma_min": schedule.sigma_min,
        "sigma_max": schedule.sigma_max,
    }
    defaults = {field.name: field.default for field in dataclasses.fields(DiffusionOptions)}
    for name, value in own.items():
        asked = getattr(args, name)
        if asked not in (value, defaults[name]) and {asked, value} != {"linear", "loglinear"}:  # which are one curve
            raise UserError(
                f"{name} is {asked}, but the model was built with {value}, with which it would be trained; give it "
                "to MaskedDiffusionConfig"
            )


def minimised(objective: Objective) -> dict[str, str]:
    """What training minimises, for the header of a run log, where that is not what evaluations report."""
    return {} if objective.train_objective is None else {"train_objective": objective.train_objective}


def count_law(training: Mapping[str, Any]) -> CountLaw:
    """How many tokens are hidden, from training arguments by name."""
    return CountLaw(
        training["count_law"],
        training["count_law_exponent"],
        training["count_law_centre"],
        training["count_law_width"],
        training["count_law_uniform_share"],
    )


def adaptive_settings(training: Mapping[str, Any]) -> AdaptiveSettings:
    """What is adaptive, from training arguments by name.

    Raises:
        UserError: a curriculum that is none, or one without importance.
    """
    return AdaptiveSettings(
        importance=training["importance"],
        masking=training["masking"],
        temperature=training["masking_temperature"],
        position_bias=training["position_bias"],
        curriculum=training["curriculum"],
        curriculum_schedule=training["curriculum_schedule"],
        loss_weight=training["importance_loss_weight"],
        posterior_tilt=training["posterior_tilt"],
    )


def token_counts(
    dataset: Any, vocab_size: int, bos_token_id: int | None, stream_rows: int = _STREAM_ROWS
) -> np.ndarray:
    """(V,) how often each token of the training set is scored; of a stream, of its first ``stream_rows`` blocks."""
    if getattr(dataset, "is_stream", False) and hasattr(dataset, "one_pass"):  # its own windows stay as they are
        blocks = itertools.islice(dataset.one_pass(stream_rows), 1)
        rows: Iterable[Any] = (_as_row(row) for part in blocks for row in part)
        return count_tokens(rows, vocab_size, bos_token_id=bos_token_id)
    most_rows = stream_rows if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") else None
    return count_tokens(dataset, vocab_size, most_rows, bos_token_id)


def _as_row(row: Any) -> Any:
    """A row of a stream with the columns that are counted: of a block, an answer, or several documents."""
    if isinstance(row, Mapping):
        return row
    return {"input_ids": row} if isinstance(row, np.ndarray) else {"input_ids": row.ids, "labels": row.labels}
