"""What becomes of each field of transformers' ``TrainingArguments``: the one table of it, data alone.

The command line, ``DiffusionTrainingArguments`` and ``docs/trainer-arguments.md`` read it. A field that is not in it is one
that nobody has decided on: a test walks the fields of the installed transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WORKS, CHANGED, REFUSED = "works", "works with a change", "refused"
TESTS = "tests/training/test_trainer_arguments.py"


@dataclass(frozen=True)
class Row:
    """What becomes of one field.

    Attributes:
        verdict: WORKS, CHANGED or REFUSED; the last is a value other than the default, in Python as on the command line.
        sentence: of REFUSED the end of a sentence that begins with the name, what is wrong and what to do; of CHANGED what
            is different here; else empty.
        test: ``path::name`` of the test that sets the field and sees its effect; empty where it is refused.
        bounds: of the value: ``min``, ``max``, ``above`` and ``below``. Fields with a default of ours have theirs there.
        flag: the end of the sentence with which the command line refuses what Python takes, since it says it otherwise.
        needs: fields of which one must be set, for this one to have an effect.
        words: of ours, beside those that transformers has a choice of.
    """

    verdict: str
    sentence: str = ""
    test: str = ""
    bounds: Mapping[str, float] = field(default_factory=dict)
    flag: str = ""
    needs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def _works(test: str, flag: str = "", needs: tuple[str, ...] = (), **bounds: float) -> Row:
    return Row(WORKS, "", _path(test), bounds, flag, needs)


def _changed(sentence: str, test: str, flag: str = "", needs: tuple[str, ...] = (), **bounds: float) -> Row:
    return Row(CHANGED, sentence, _path(test), bounds, flag, needs)


def _refused(sentence: str) -> Row:
    return Row(REFUSED, sentence)


def _path(test: str) -> str:
    return test if "::" in test else f"{TESTS}::{test}"


_EVALUATES = "has no effect on an evaluation that makes no logits of whole sequences: leave it out"
_AS_TRAINED = "has no effect: an evaluation computes in the precision of the training; leave it out"
_RECOMPUTED = ("activation_checkpointing", "gradient_checkpointing")
_WORKERS = ("dataloader_num_workers",)
_SPACE = "sends a run where nobody has seen it arrive: leave it out, and run `trackio sync` after the training"
_SCRIPT = "Trainers do not read it, scripts do: it is kept"
_PUSHED = "tests/hub/test_push_training.py::test_a_failing_hub_is_a_line_and_an_event_and_the_next_push_makes_up_for_it"
_LAUNCH = "tests/training/launch/test_processes.py"
_ENGINES = f"{_LAUNCH}::test_what_was_asked_for_is_read_from_the_launcher_and_the_flags"

ROWS: dict[str, Row] = {
    # How long, and how fast.
    "output_dir": _works(
        "test_files_lie_in_the_output_folder",
        flag="belongs on the command line as --output-dir, since a recipe serves many runs",
    ),
    "per_device_train_batch_size": _changed(
        "Lowered to the share of global_batch_size that one process has, where that is less",
        "tests/training/test_arguments.py::test_a_micro_batch_is_never_larger_than_the_optimiser_batch",
    ),
    "num_train_epochs": _works("test_a_training_is_as_long_as_it_says"),
    "max_steps": _works("test_a_training_is_as_long_as_it_says"),
    "learning_rate": _works("test_the_optimiser_has_it"),
    "lr_scheduler_type": _works("test_the_learning_rate_follows_the_schedule"),
    "lr_scheduler_kwargs": _changed(
        "warmup_stable_decay takes decay_ratio, a share of all steps, too",
        "test_the_learning_rate_follows_the_schedule",
    ),
    "warmup_steps": _works("test_the_learning_rate_follows_the_schedule"),
    "optim": Row(
        CHANGED,
        "muon is one more; those that change weights within the backward pass are refused",
        _path("test_the_optimiser_is_the_one_that_is_named"),
        words=("muon",),
    ),
    "optim_args": _changed(
        "Words that the optimiser does not read are refused", "test_the_optimiser_is_the_one_that_is_named"
    ),
    "weight_decay": _works("test_the_optimiser_has_it"),
    "adam_beta1": _works("test_the_optimiser_has_it", min=0.0, below=1.0),
    "adam_beta2": _works("test_the_optimiser_has_it", min=0.0, below=1.0),
    "adam_epsilon": _works("test_the_optimiser_has_it", above=0.0),
    "optim_target_modules": _changed(
        "For the GaLore and APOLLO optimisers alone; beside another optim it is refused",
        "test_target_modules_are_for_the_optimisers_that_have_them",
    ),
    "gradient_accumulation_steps": _changed(
        "1 leaves it to global_batch_size, more wins over that",
        "tests/training/test_arguments.py::test_an_explicit_accumulation_wins",
    ),
    "average_tokens_across_devices": _refused(
        "would weigh the tokens of one process more than those of another: the loss is over the scored tokens of the whole "
        "optimiser batch; leave it out"
    ),
    "max_grad_norm": _works("test_the_gradient_is_clipped_at_it"),
    "label_smoothing_factor": _refused("would make the loss no likelihood bound: remove it"),
    # Precision, memory, speed.
    "bf16": _works("tests/training/test_precision.py::test_weights_optimiser_and_moving_average_stay_in_float32"),
    "fp16": _changed("Refused on a CPU, which would compute in float32", "test_float16_is_for_gpus"),
    "bf16_full_eval": _refused(_AS_TRAINED),
    "fp16_full_eval": _refused(_AS_TRAINED),
    "tf32": _changed("True is refused where no GPU has it", "test_tf32_is_for_gpus"),
    "activation_checkpointing": _works("test_activations_are_computed_again"),
    "activation_checkpointing_kwargs": _works("test_activations_are_computed_again", needs=_RECOMPUTED),
    "gradient_checkpointing": _works("test_activations_are_computed_again"),
    "gradient_checkpointing_kwargs": _works("test_activations_are_computed_again", needs=_RECOMPUTED),
    "torch_compile": _works("test_the_network_is_compiled"),
    "torch_compile_backend": _works("test_the_network_is_compiled"),
    "torch_compile_mode": _works("test_the_network_is_compiled"),
    "use_liger_kernel": _changed(
        "The kernels of the layers, with our loss; refused on a CPU",
        "tests/training/launch/test_liger.py::test_the_trainer_refuses_it_before_the_first_step",
    ),
    "liger_kernel_config": _changed(
        "The kernels of the layers; those of the loss are refused",
        "tests/training/launch/test_liger.py::test_the_trainer_takes_the_kernels_that_are_asked_for",
        needs=("use_liger_kernel",),
    ),
    "use_cache": _works("test_the_configuration_has_it"),
    "neftune_noise_alpha": _changed(
        "In one process: several would draw the same noise for other rows", "test_embeddings_are_noisy", above=0.0
    ),
    "torch_empty_cache_steps": _works("test_the_cache_is_emptied", min=1),
    "auto_find_batch_size": _refused(
        "would change the optimiser batch: set global_batch_size and lower per_device_train_batch_size instead"
    ),
    # What is said, and where.
    "logging_strategy": _changed("The last step is logged in any case", "test_steps_are_logged_when_it_says"),
    "logging_steps": _works("test_steps_are_logged_when_it_says"),
    "logging_first_step": _works("test_steps_are_logged_when_it_says"),
    "log_on_each_node": _works("test_two_machines_say_and_talk_as_it_says"),
    "logging_nan_inf_filter": _changed(
        "Off by default, and a loss that is not finite stops the run either way",
        "test_no_filter_hides_a_loss_that_is_not_finite",
    ),
    "include_num_input_tokens_seen": _changed(
        "num_input_tokens_seen is logged, and counts scored tokens, whichever word is given",
        "tests/training/test_trainer.py::test_tokens_are_counted_once_whatever_transformers_is_asked_to_count",
    ),
    "log_level": _works("test_messages_have_its_level"),
    "log_level_replica": _works("test_two_machines_say_and_talk_as_it_says"),
    "disable_tqdm": _works("test_progress_is_a_bar_or_lines"),
    "report_to": _works(
        "tests/callbacks/test_trackers.py::test_tensorboard_has_the_trainers_own_data_and_ours_in_one_folder"
    ),
    "run_name": _works("test_the_run_log_has_its_name"),
    "project": _works(
        "tests/callbacks/tracking/test_trackio.py::test_trackio_has_the_trainers_scalars_and_what_is_published"
    ),
    "trackio_space_id": _refused(_SPACE),
    "trackio_bucket_id": _refused(_SPACE),
    "trackio_static_space_id": _refused(_SPACE),
    # Evaluation.
    "eval_strategy": _changed("no, where there is no evaluation set", "test_evaluations_come_when_it_says"),
    "eval_steps": _works("test_evaluations_come_when_it_says"),
    "eval_delay": _works("test_evaluations_come_when_it_says", min=0.0),
    "per_device_eval_batch_size": _works("test_an_evaluation_reads_batches_of_its_size"),
    "prediction_loss_only": _refused(_EVALUATES),
    "eval_on_start": _works("test_evaluations_come_when_it_says"),
    "eval_do_concat_batches": _refused(_EVALUATES),
    "eval_use_gather_object": _refused(_EVALUATES),
    "eval_accumulation_steps": _refused(_EVALUATES),
    "include_for_metrics": _refused(_EVALUATES),
    "batch_eval_metrics": _refused(_EVALUATES),
    # Checkpoints, and the Hub.
    "save_only_model": _works("test_checkpoints_are_written_as_it_says"),
    "save_strategy": _works("test_checkpoints_are_written_as_it_says"),
    "save_steps": _works("test_checkpoints_are_written_as_it_says"),
    "save_on_each_node": _refused(
        "would write checkpoints that no other machine finds: give all of them one --output-dir on a shared disk"
    ),
    "save_total_limit": _works("test_checkpoints_are_written_as_it_says"),
    "enable_jit_checkpoint": _refused(
        "would leave a process that ignores SIGTERM: remove it, since SIGTERM ends a run with a checkpoint anyway"
    ),
    "push_to_hub": _changed("Pushes best/ with its code, card and run log, in the background", _PUSHED),
    "hub_token": _works(_PUSHED),
    "hub_private_repo": _works("tests/hub/test_push_training.py::test_a_repository_is_private_and_a_branch_its_own"),
    "hub_model_id": _works(_PUSHED),
    "hub_strategy": _works(_PUSHED),
    "hub_always_push": _works(
        "tests/hub/test_push_engines_training.py::"
        "test_what_two_processes_push_at_a_save_loads_elsewhere_and_its_checkpoint_is_whole"
    ),
    "hub_revision": _works("tests/hub/test_push_training.py::test_a_repository_is_private_and_a_branch_its_own"),
    "load_best_model_at_end": _works(
        "tests/training/test_evaluated_weights.py::test_the_model_has_the_best_weights_that_were_evaluated",
        flag="has no use here: the weights of the lowest eval_nll are always kept in best/",
    ),
    "metric_for_best_model": _changed(
        "eval_nll by default",
        "tests/training/test_trainer.py::test_the_lowest_of_a_metric_is_kept_and_early_stopping_lets_a_run_improve",
    ),
    "greater_is_better": _changed(
        "Of our metrics it is known, and the wrong one refused; of others it must be said",
        "tests/training/test_arguments.py::test_of_a_metric_of_the_users_own_the_user_says_it",
    ),
    "ignore_data_skip": _refused("would train on the first blocks of an epoch again after a resume: remove it"),
    "restore_callback_states_from_checkpoint": _works("test_callbacks_go_on_where_they_were"),
    # Chance.
    "full_determinism": _works("test_torch_is_told_to_be_deterministic"),
    "seed": _works(
        "tests/training/trainer_parts/test_resuming.py::test_the_same_seed_gives_the_same_run_and_another_seed_another"
    ),
    "data_seed": _works("test_the_order_of_the_data_has_a_seed_of_its_own", min=0),
    # Devices and processes.
    "use_cpu": _works("test_the_cpu_is_used_where_it_is_asked_for"),
    "accelerator_config": _changed(
        "What would make other batches, or has no effect on ours, is refused",
        "test_of_accelerates_settings_those_that_work",
    ),
    "parallelism_config": _refused(
        "would cut sequences or layers among processes, which the objectives do not know of: remove it, and use FSDP or "
        "DeepSpeed for a model that does not fit"
    ),
    "ddp_find_unused_parameters": _changed(
        "False by default; on where some parameters of the network never get a gradient", "test_ddp_has_it"
    ),
    "ddp_bucket_cap_mb": _works("test_ddp_has_it", min=1),
    "ddp_broadcast_buffers": _works("test_ddp_has_it"),
    "ddp_static_graph": _works("test_ddp_has_it"),
    "ddp_backend": _works("test_two_machines_say_and_talk_as_it_says"),
    "ddp_timeout": _changed(
        "Refused beside use_cpu, where transformers does not pass it on", "test_processes_wait_for_each_other", min=1
    ),
    "fsdp": _changed("FSDP2 alone; by accelerate_configs/fsdp2.yaml as well", _ENGINES),
    "fsdp_config": _changed(
        "Whole weights must be saved (state_dict_type)", "test_fsdp_has_its_configuration", needs=("fsdp",)
    ),
    "deepspeed": _changed("No moving average with ZeRO-3; by accelerate_configs/ as well", _ENGINES),
    "local_rank": _changed("The environment of the launcher decides", "test_what_scripts_read_is_kept"),
    # Data.
    "dataloader_drop_last": _refused(
        "would pad the last optimiser batch of an epoch with rows that were there before, or make it a smaller one: leave it "
        "out"
    ),
    "dataloader_num_workers": _works("test_the_loader_has_it", min=0),
    "dataloader_pin_memory": _refused(
        "has no effect: batches stay on the host, and what is made of them is pinned as it is copied to a GPU; leave it out"
    ),
    "dataloader_persistent_workers": _works("test_the_loader_has_it", needs=_WORKERS),
    "dataloader_prefetch_factor": _works("test_the_loader_has_it", needs=_WORKERS, min=1),
    "dataloader_multiprocessing_context": _works("test_the_loader_has_it", needs=_WORKERS),
    "dataloader_in_order": _refused(
        "would give batches the noise of others and make a resume another training, whichever worker is the first: leave it "
        "out"
    ),
    "remove_unused_columns": _changed("A collator gets all columns either way", "test_a_collator_gets_every_column"),
    "label_names": _refused("has no effect: labels are the column labels, else the input_ids; rename the column"),
    "train_sampling_strategy": _refused(
        "would order the data otherwise than a resume, or another number of processes, can repeat: leave it out"
    ),
    "length_column_name": _refused("has no effect where sequences are not sorted by length: leave it out"),
    # For scripts.
    "debug": _changed("underflow_overflow alone", "test_what_is_not_finite_is_traced"),
    "skip_memory_metrics": _works("test_memory_is_told_at_the_end"),
    "do_train": _changed(_SCRIPT, "test_what_scripts_read_is_kept", "has no use here: run `hf-difflm train`"),
    "do_eval": _changed(
        _SCRIPT, "test_what_scripts_read_is_kept", "has no use here: run `hf-difflm eval`, or set eval_strategy"
    ),
    "do_predict": _changed(_SCRIPT, "test_what_scripts_read_is_kept", "has no use here: run `hf-difflm generate`"),
    "resume_from_checkpoint": _changed(
        _SCRIPT,
        "test_what_scripts_read_is_kept",
        "has no use here: run `hf-difflm train --resume` with the run's --output-dir",
    ),
}

NO_FLAGS = {name: row.flag or row.sentence for name, row in ROWS.items() if row.verdict == REFUSED or row.flag}
"""What no flag and no recipe key may set: name to the end of the sentence that says why."""

OF_THE_TRAINER = {
    "compute_metrics": (
        "is given the logits of whole sequences, which an evaluation never makes: read eval_accuracy, or measure in a "
        "callback's on_evaluate"
    ),
    "preprocess_logits_for_metrics": "is given the logits of whole sequences, which an evaluation never makes: leave it out",
    "compute_loss_func": "would take the place of the objective: give your own as objective=",
}
"""What ``DiffusionTrainer`` refuses of ``Trainer``'s own arguments: name to the end of the sentence."""
