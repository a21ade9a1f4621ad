"""One run from its settings: data, model, Trainer, run log, samples."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, ProgressCallback, set_seed

from ..callbacks import RunLogCallback
from ..callbacks.tracking.open_trackers import refuse_missing_trackers
from ..callbacks.tracking.wandb_names import open_wandb_run
from ..data import PreparedData, prepare_data
from ..data.options import names_of
from ..data.prepared_folder import is_prepared
from ..data.sources.corpora import refuse_missing
from ..errors import UserError
from ..runs import load_run
from ..runs.journal.schema import COMPLETED
from ..training.arguments import DiffusionTrainingArguments
from ..training.data_order import NO_END
from ..training.declarations.complaints import complaints_about
from ..training.declarations.identity import as_lines
from ..training.launch.attention import check_attention
from ..training.trainer import DiffusionTrainer
from ..training.trainer_parts.pushing import keeps_no_weights
from .building import build_model, check_network, parameters_said
from .doctor import sanity_checks
from .monitoring import add_monitoring
from .progress import ConsoleCallback, StartLine
from .recipe_settings import Settings
from .run_ends import close_log, ending, is_last, newest_checkpoint, test_line, write_samples
from .run_folder import (
    check_folder,
    default_name,
    delete_run,
    flat_config,
    fresh_folder,
    harmless_changes,
    keeps_log,
    log_folder,
    make_folder,
    make_place,
)
from .starting_point import begin_from, open_tokenizer
from .trainer_arguments import training_arguments
from .written_words import words_line

INTERRUPTED = 130  # the exit code of a run that Ctrl-C stopped


@dataclass
class FinishedRun:
    """What :func:`train_run` leaves behind; ``interrupted`` by Ctrl-C."""

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
    if not resume:
        _refuse_unused_names(settings)
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; give one of them")
    if sanity_check:
        if not sanity_checks(begin_from(settings)):
            raise UserError("the sanity check failed; see the lines marked ✗ above")
        return FinishedRun(Path(), False)
    folder = output_dir or fresh_folder(settings)
    # Adapters go on beside the weights that they began with, not beside a checkpoint, which holds them alone.
    settings = begin_from(settings, folder if resume and settings.training["lora_r"] is None else None)
    arguments = training_arguments(settings, folder)
    refuse_missing_trackers(arguments.report_to)
    folder = _agree_on(folder, arguments)
    log_dir = Path(arguments.log_dir or (log_folder(folder) if resume else folder))
    arguments.log_dir = str(log_dir)
    config = flat_config(settings, arguments.global_batch_size or 1)
    check_folder(folder, log_dir, config, resume=resume, overwrite=overwrite)
    is_main = arguments.process_index == 0
    if resume and keeps_log(folder) and load_run(folder).status == COMPLETED:
        if is_main:
            print(f"the run in {folder} is complete: nothing is left to train")
        return FinishedRun(folder, False)
    if resume and is_main:
        changes = harmless_changes(folder, config)  # of those in the Trainer's arguments the Trainer tells
        print(
            "".join(f"{line}\n" for line in as_lines({n: c for n, c in changes.items() if n not in settings.training})),
            end="",
        )
    check_attention(
        settings.model.attn_implementation,
        on_cpu=arguments.device.type == "cpu",
        half=arguments.bf16 or arguments.fp16,
    )
    others = [] if settings.data.eval_dataset is None else [settings.data.eval_dataset]
    for name in [*names_of(settings.data.dataset), *others]:
        refuse_missing(name)
    _refuse_no_end(settings)
    if arguments.push_to_hub and keeps_no_weights(arguments.save_strategy, arguments.eval_strategy):
        raise UserError(
            "push_to_hub has nothing to push, since save_strategy and eval_strategy are no; set one of them"
        )
    tokenizer = open_tokenizer(settings)
    check_network(settings, tokenizer)
    if is_main:
        print("".join(f"note: {note}\n" for note in settings.notes), end="")
        ready = is_prepared(settings.data.dataset)
        print(
            f"{'reading' if ready else 'preparing'} {settings.data.dataset}{'' if ready else ' (cached for the next run)'}",
            flush=True,
        )
    data = prepare_data(settings.data, tokenizer, tell=False)
    _set_seed(arguments.seed)
    model = build_model(settings, tokenizer)
    trainer: DiffusionTrainer | None = None
    made = False
    try:
        if is_main:
            make_place(folder)  # the Trainer makes it, too, but has no sentence where it cannot
        trainer, run_log = build_trainer(settings, arguments, model, tokenizer, data, resume=resume)
        monitoring = add_monitoring(trainer, settings.monitoring, data)
        if not resume:
            _open_wandb_run(settings, arguments)
        # Whatever is wrong with the input has shown by now: only here something is written or deleted.
        if is_main and not resume:
            make_folder(folder, log_dir, overwrite=overwrite)
            made = True
        if is_main:
            print(data.summary())
            print(f"{arguments.objective}: {parameters_said(model)}; run folder {folder}", flush=True)
            trainer.add_callback(StartLine())
        checkpoint = newest_checkpoint(folder) if resume else None
        if checkpoint is not None and is_last(checkpoint):
            close_log(trainer, run_log, checkpoint)
            return FinishedRun(folder, False)
        if resume and run_log is not None:
            run_log.resume_trackers(arguments)
        if resume:
            _open_wandb_run(settings, arguments)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        interrupted = trainer.interrupt.interrupted
    except BaseException:
        if made and (trainer is None or trainer.state.global_step == 0):
            delete_run(folder)  # nothing was trained
        elif is_main and not made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # the Trainer makes it
        raise
    if is_main:
        if monitoring.samples is not None and monitoring.samples.last_samples and not interrupted:
            write_samples(monitoring.samples.last_samples, folder)
        if monitoring.alerts is not None and monitoring.alerts.failure is not None:
            raise UserError(f"{monitoring.alerts.failure}; go on with --resume --fail-on none")
        if interrupted:
            print(f"interrupted at step {trainer.state.global_step}, which is saved", file=sys.stderr)
        else:
            if line := test_line(trainer, folder, data):
                print(line)
            if line := words_line(trainer, folder, data, settings.monitoring.word_samples):
                print(line)
            print(ending(trainer, folder))
            trainer.push_at_end()
    return FinishedRun(folder, interrupted)


def _refuse_unused_names(settings: Settings) -> None:
    """Raise UserError where a name is given to a W&B run that there will not be."""
    reports_to = settings.training["report_to"]
    named = [name for name in ("wandb_project", "wandb_entity", "wandb_run_name") if name in settings.given]
    for name in named:
        if getattr(settings.monitoring, name) is not None and not {"wandb", "all"} & set(reports_to):
            raise UserError(f"{name} has no effect without Weights & Biases: add --report-to wandb, or leave it out")


def _refuse_no_end(settings: Settings) -> None:
    """Raise UserError where neither the steps nor the text end; before the text is read."""
    data = settings.data
    endless = data.streaming and data.most_train_blocks() is None and not is_prepared(data.dataset)
    if endless and settings.training["max_steps"] <= 0:
        raise UserError(NO_END)


def _open_wandb_run(settings: Settings, arguments: DiffusionTrainingArguments) -> None:
    watch = settings.monitoring
    open_wandb_run(arguments, watch.wandb_project, watch.wandb_entity, watch.wandb_run_name)


def _agree_on(folder: Path, arguments: DiffusionTrainingArguments) -> Path:
    """The folder of the first process: a name with the time in it may differ from process to process."""
    if arguments.world_size > 1:
        folder = broadcast_object_list([folder])[0]
        arguments.output_dir = str(folder)
    return folder


def _set_seed(seed: int) -> None:
    if seed >= 2**32:
        raise UserError(f"seed must be below 2^32, got {seed}; NumPy takes no larger one")
    set_seed(seed)


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
    with complaints_about("these training arguments do not work here", "change or leave out the one it names"):
        trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ConsoleCallback(arguments.objective, bar=not arguments.disable_tqdm))
    if arguments.save_log_to_json:
        run_log = RunLogCallback(
            log_dir=arguments.log_dir,
            run_name=arguments.run_name or arguments.experiment_name or default_name(settings),
            experiment_name=arguments.experiment_name,
            log_save_interval=arguments.log_save_interval,
            log_eval_only=arguments.log_eval_only,
            header=_header(settings, trainer, data),
            resume=resume,
        )
        trainer.add_callback(run_log)
    return trainer, run_log


def _header(settings: Settings, trainer: DiffusionTrainer, data: PreparedData) -> dict[str, Any]:
    config = flat_config(settings, trainer.args.global_batch_size or 1)
    config["recipe"] = settings.recipe
    return {
        "objective": trainer.training_objective.name,
        "bound": trainer.training_objective.bound,
        "parent_run": None if settings.start is None else settings.start.parent,
        "metadata": trainer.facts() | ({"parent": settings.start.ancestry} if settings.start else {}),
        "config": config,
        "data": data.description(),
    }
