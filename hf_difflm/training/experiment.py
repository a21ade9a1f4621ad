"""One run from its settings: data, model, Trainer, run log, samples."""

from __future__ import annotations

import dataclasses
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, set_seed

from ..callbacks import RunLogCallback
from ..data import PreparedData, load_tokenizer, prepare_data
from ..errors import UserError
from ..evaluation.generation import generate_texts
from ..evaluation.options import GenerationOptions
from ..models.build import build_causal_lm, build_denoiser
from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from ..runs.checkpoints import newest_good
from .arguments import DiffusionTrainingArguments
from .progress import ConsoleCallback
from .run_folder import changed_settings, claim, default_name, flat_config, fresh_folder
from .settings import Settings
from .trainer import DiffusionTrainer

logger = logging.getLogger(__name__)
INTERRUPTED = 130  # the exit code of a run that Ctrl-C stopped


@dataclass
class FinishedRun:
    """What :func:`train_run` leaves behind."""

    folder: Path
    interrupted: bool


def train_run(
    settings: Settings,
    output_dir: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    sanity_check: bool = False,
) -> FinishedRun:
    """Train one model and log it.

    Args:
        settings: see :func:`load_settings`.
        output_dir: folder of the run; a new one under ``runs/`` by default.
        resume: go on from the newest good checkpoint there; from step 0, saying so, where none was finished.
        overwrite: delete the run that the folder holds first.
        sanity_check: check machine, data, model and one step instead of training.

    Raises:
        UserError: bad input; a folder that holds another run; a run that diverged.
    """
    if resume and output_dir is None:
        raise UserError("--resume needs --output-dir, the folder of the run to go on with")
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; give one of them")
    if sanity_check:
        from .doctor import sanity_checks

        if not sanity_checks(settings):
            raise UserError("the sanity check failed; see the lines marked ✗ above")
        return FinishedRun(Path(), False)
    folder = output_dir or fresh_folder(settings)
    config = flat_config(settings)
    if resume:
        claim(folder, resume=True, overwrite=False)
        changed = changed_settings(folder, config)
        if changed:
            name, (recorded, wanted) = next(iter(changed.items()))
            raise UserError(
                f"cannot resume {folder} with {name} = {wanted!r}, since it was started with {recorded!r}; give the same "
                "recipe and flags, or start another run"
            )
    arguments = training_arguments(settings, folder)  # before --overwrite deletes anything
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = prepare_data(settings.data, tokenizer)
    set_seed(arguments.seed)
    model = build_model(settings, tokenizer)
    if not resume:
        claim(folder, resume=False, overwrite=overwrite)
    trainer, run_log = build_trainer(settings, arguments, model, tokenizer, data, resume=resume)
    if trainer.is_world_process_zero():
        print(data.summary())
        print(f"{arguments.objective}: {trainer.model.num_parameters():,} parameters; run folder {folder}")
    interrupted = _train(trainer, resume)
    if not interrupted:
        _write_samples(trainer, data, run_log, folder)
    if interrupted and trainer.is_world_process_zero():
        print(
            f"interrupted at step {trainer.state.global_step}; "
            f"go on with: hf-difflm train --output-dir {folder} --resume",
            file=sys.stderr,
        )
    return FinishedRun(folder, interrupted)


def training_arguments(settings: Settings, folder: Path) -> DiffusionTrainingArguments:
    """The Trainer's arguments, with its complaints as one sentence."""
    try:
        return DiffusionTrainingArguments(output_dir=str(folder), **settings.training)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"these training arguments do not work here: {first}; change or leave out the one it names"
        ) from error


def build_model(settings: Settings, tokenizer: Any) -> Any:
    """The network that the objective trains, freshly initialised from the global generator."""
    block_size, training = settings.data.block_size, settings.training
    if training["objective"] == "ar":
        return build_causal_lm(settings.model, tokenizer, block_size)
    schedule = NoiseSchedule(
        training["noise_schedule"], training["schedule_exponent"], training["sigma_min"], training["sigma_max"]
    )
    return build_denoiser(settings.model, tokenizer, block_size, schedule)


def build_trainer(
    settings: Settings,
    arguments: DiffusionTrainingArguments,
    model: Any,
    tokenizer: Any,
    data: PreparedData,
    *,
    resume: bool = False,
) -> tuple[DiffusionTrainer, RunLogCallback | None]:
    """The Trainer of a run, with its run log and its console."""
    run_log: RunLogCallback | None = None
    trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ConsoleCallback(arguments.objective, bar=not arguments.disable_tqdm))
    if arguments.save_log_to_json:
        run_log = RunLogCallback(
            log_dir=arguments.log_dir,
            run_name=arguments.experiment_name or default_name(settings),
            log_save_interval=arguments.log_save_interval,
            header=_header(settings, trainer, data),
            resume=resume,
        )
        trainer.add_callback(run_log)
    return trainer, run_log


def _header(settings: Settings, trainer: DiffusionTrainer, data: PreparedData) -> dict[str, Any]:
    config = flat_config(settings)
    config["global_batch_size"] = trainer.args.global_batch_size
    config["recipe"] = settings.recipe
    return {
        "objective": trainer.objective.name,
        "bound": trainer.objective.bound,
        "config": config,
        "data": {
            "fingerprint": data.fingerprint,
            "counts": {side: dataclasses.asdict(counts) for side, counts in data.counts.items()},
            "source_nll": data.source_nll,
            "notes": data.notes,
        },
    }


def _train(trainer: DiffusionTrainer, resume: bool) -> bool:
    """Train, from the newest good checkpoint when resuming; returns whether Ctrl-C stopped it."""
    checkpoint: Path | None = None
    if resume:
        checkpoint, warnings = newest_good(Path(trainer.args.output_dir or ""))
        for warning in warnings:
            logger.warning(warning)
        if checkpoint is None:
            logger.warning("no finished checkpoint to resume from: starting at step 0")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer.interrupt.interrupted


def _write_samples(trainer: DiffusionTrainer, data: PreparedData, run_log: RunLogCallback | None, folder: Path) -> None:
    """Text from the weights that were evaluated last, into the run log and ``samples.txt``.

    The prompts are none, and how the evaluation text begins.
    """
    tokenizer = trainer.processing_class
    prompt_tokens = min(32, data.block_size // 4)
    prompts = ["", tokenizer.decode(data.eval[0]["input_ids"][1 : 1 + prompt_tokens], skip_special_tokens=True)]
    options = GenerationOptions(max_new_tokens=data.block_size - 1 - prompt_tokens, seed=0)
    with trainer.evaluated_weights(), torch.random.fork_rng():
        texts = generate_texts(trainer.accelerator.unwrap_model(trainer.model), tokenizer, prompts, options)
    if not trainer.is_world_process_zero():
        return
    step = trainer.state.global_step
    lines = []
    for prompt, text in zip(prompts, texts, strict=True):
        if run_log is not None:
            run_log.record_sample(step, prompt, text)
        lines.append(f"=== step {step}, prompt {prompt!r}\n{prompt}{text}\n")
    (folder / "samples.txt").write_text("\n".join(lines), encoding="utf-8")
