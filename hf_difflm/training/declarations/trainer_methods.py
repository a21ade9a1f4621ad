"""What becomes of each public method of transformers' Trainer, and of what its constructor takes; data alone.

``tests/training/test_trainer_methods.py`` walks the methods of the installed Trainer: one without a row fails, until somebody
decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError

WORKS, CHANGED, REFUSED = "works", "works with a change", "refused"
_HERE = "tests/training/test_trainer_methods.py::"
_SEARCH = "tests/training/trainer_parts/test_searching.py::"
_SETS = "tests/training/trainer_parts/test_evaluation_sets.py::"
_DATA = "tests/training/test_given_data.py::"


@dataclass(frozen=True)
class Method:
    """One public method, or one argument of the constructor.

    Attributes:
        verdict: WORKS, as in transformers; CHANGED; or REFUSED.
        sentence: what is otherwise, or why it is refused and what to do; begins with a verb whose subject is the name.
        test: path::name of the test that sees it.
        called: whether an override in a subclass has an effect; one that has none is refused.
    """

    verdict: str
    sentence: str
    test: str
    called: bool = True


METHODS = {
    "add_callback": Method(WORKS, "", _HERE + "test_callbacks_come_and_go"),
    "pop_callback": Method(WORKS, "", _HERE + "test_callbacks_come_and_go"),
    "remove_callback": Method(WORKS, "", _HERE + "test_callbacks_come_and_go"),
    "train": Method(
        CHANGED,
        "resumes from the newest checkpoint that is whole, and refuses one of another experiment; ignore_keys_for_eval is of "
        "no use, since no outputs of the model are gathered",
        _HERE + "test_training_goes_on_from_the_newest_checkpoint",
    ),
    "training_step": Method(WORKS, "", _HERE + "test_a_step_by_hand_is_the_loss_of_its_batch"),
    "compute_loss": Method(
        CHANGED,
        "takes clean tokens on the host, draws their noise, and returns the objective's loss in nats per token",
        _HERE + "test_a_step_by_hand_is_the_loss_of_its_batch",
    ),
    "compute_loss_context_manager": Method(WORKS, "", _HERE + "test_every_loss_is_computed_in_these_contexts"),
    "autocast_smart_context_manager": Method(WORKS, "", _HERE + "test_every_loss_is_computed_in_these_contexts"),
    "evaluate": Method(
        CHANGED,
        "returns the likelihood under fixed noise and its errors; of a dict of sets each under its name",
        _SETS + "test_each_set_is_evaluated_under_its_name_and_one_of_them_chooses_the_best",
    ),
    "predict": Method(
        CHANGED,
        "returns the nll of each row (or document) in nats, and the metrics of evaluate; whole logits are never made",
        _HERE + "test_predictions_are_the_nll_of_each_row",
    ),
    "evaluation_loop": Method(
        REFUSED,
        "takes a loader, which does not say the places of its rows, by which the noise is drawn; call evaluate(rows) or "
        "predict(rows)",
        _HERE + "test_what_is_refused_says_what_to_do",
        called=False,
    ),
    "prediction_step": Method(
        REFUSED,
        "gives the logits of a batch, which are never made as a whole; call predict(rows) for the nll of each, or the model "
        "for logits",
        _HERE + "test_what_is_refused_says_what_to_do",
        called=False,
    ),
    "get_train_dataloader": Method(
        CHANGED,
        "orders rows by seed and epoch alone, whatever the processes, in whole optimiser batches on the host; a subclass may "
        "return a loader of its own",
        _DATA + "test_a_loader_of_ones_own_trains_though_its_batches_would_be_on_a_device",
    ),
    "get_eval_dataloader": Method(
        CHANGED,
        "gives batches to look at; evaluate reads rows by number",
        _HERE + "test_loaders_of_evaluation_sets_leave_no_row_out",
        called=False,
    ),
    "get_test_dataloader": Method(
        CHANGED,
        "gives batches to look at; predict reads rows by number",
        _HERE + "test_loaders_of_evaluation_sets_leave_no_row_out",
        called=False,
    ),
    "num_examples": Method(WORKS, "", _HERE + "test_loaders_of_evaluation_sets_leave_no_row_out"),
    "get_batch_samples": Method(
        CHANGED,
        "numbers the rows by their places in the optimiser batch, which key the noise",
        _HERE + "test_batches_are_numbered_and_counted",
    ),
    "get_total_train_batch_size": Method(WORKS, "", _HERE + "test_batches_are_numbered_and_counted"),
    "set_initial_training_values": Method(WORKS, "", _HERE + "test_batches_are_numbered_and_counted"),
    "get_cp_size": Method(WORKS, "", _HERE + "test_batches_are_numbered_and_counted"),
    "get_sp_size": Method(WORKS, "", _HERE + "test_batches_are_numbered_and_counted"),
    "get_tp_size": Method(WORKS, "", _HERE + "test_batches_are_numbered_and_counted"),
    "create_optimizer": Method(
        CHANGED,
        "adds a group for networks that the objective trains beside the model",
        _HERE + "test_optimizers_and_schedules_are_made",
    ),
    "create_scheduler": Method(WORKS, "", _HERE + "test_optimizers_and_schedules_are_made"),
    "create_optimizer_and_scheduler": Method(WORKS, "", _HERE + "test_optimizers_and_schedules_are_made"),
    "get_decay_parameter_names": Method(WORKS, "", _HERE + "test_optimizers_and_schedules_are_made"),
    "get_optimizer_cls_and_kwargs": Method(WORKS, "", _HERE + "test_optimizers_and_schedules_are_made"),
    "get_optimizer_group": Method(WORKS, "", _HERE + "test_optimizers_and_schedules_are_made"),
    "get_learning_rates": Method(WORKS, "", _HERE + "test_optimizers_and_schedules_are_made"),
    "get_num_trainable_parameters": Method(WORKS, "", _HERE + "test_optimizers_and_schedules_are_made"),
    "create_accelerator_and_postprocess": Method(
        WORKS, "", _SEARCH + "test_each_trial_is_the_training_that_its_values_say"
    ),
    "call_model_init": Method(WORKS, "", _SEARCH + "test_each_trial_is_the_training_that_its_values_say"),
    "hyperparameter_search": Method(
        CHANGED,
        "compares trials by metric_for_best_model in the way in which it is better, takes settings of ours, and refuses "
        "those that would have no effect; optuna is its only backend, over several processes without pruning",
        _SEARCH + "test_each_trial_is_the_training_that_its_values_say",
    ),
    "floating_point_ops": Method(
        CHANGED,
        "counts the model FLOPs of the batch before, by the architecture and the positions with a label",
        _HERE + "test_operations_are_those_of_the_batch_before",
    ),
    "store_flos": Method(WORKS, "", _HERE + "test_operations_are_those_of_the_batch_before"),
    "log": Method(WORKS, "", _HERE + "test_what_is_logged_by_hand_is_in_the_history"),
    "log_metrics": Method(WORKS, "", _HERE + "test_metrics_are_shown_and_saved"),
    "metrics_format": Method(
        CHANGED,
        "takes metrics alone, whoever calls it; on a stock Trainer it is a TypeError",
        _HERE + "test_metrics_are_shown_and_saved",
    ),
    "save_metrics": Method(WORKS, "", _HERE + "test_metrics_are_shown_and_saved"),
    "save_state": Method(WORKS, "", _HERE + "test_metrics_are_shown_and_saved"),
    "save_model": Method(
        CHANGED,
        "saves what is evaluated: the average of the weights, if there is one, and adapters merged",
        "tests/training/test_evaluated_weights.py::test_save_model_writes_what_is_evaluated",
    ),
    "create_model_card": Method(
        CHANGED,
        "writes the card of push, from the run log; it takes no arguments (the licence is hub_license)",
        _HERE + "test_the_model_card_is_that_of_push",
    ),
    "push_to_hub": Method(
        CHANGED,
        "pushes what the run in the output folder stands for, as hf-difflm push does; it refuses the stock card's arguments",
        _HERE + "test_the_stock_cards_arguments_are_refused",
    ),
    "init_hf_repo": Method(
        CHANGED,
        "goes on where the Hub cannot be reached, and tries again at each push",
        "tests/hub/test_push_training.py::test_without_a_network_the_run_is_trained_and_resumes",
    ),
    "is_local_process_zero": Method(WORKS, "", _HERE + "test_one_process_is_the_first"),
    "is_world_process_zero": Method(WORKS, "", _HERE + "test_one_process_is_the_first"),
    "end": Method(WORKS, "", _HERE + "test_one_process_is_the_first"),
}

OURS = ("evaluated_weights", "facts", "push_at_end")
"""Public methods that DiffusionTrainer adds."""

NOT_CALLED = (*(name for name, row in METHODS.items() if not row.called), "_get_train_sampler", "_get_eval_sampler")
"""What a subclass overrides in vain."""

_INSTEAD = {"_get_train_sampler": "get_train_dataloader"}

CONSTRUCTOR = {
    "model": Method(WORKS, "", _HERE + "test_callbacks_come_and_go"),
    "args": Method(
        WORKS, "defaults to DiffusionTrainingArguments()", _HERE + "test_without_arguments_there_are_defaults"
    ),
    "data_collator": Method(
        CHANGED,
        "must return input_ids and labels on the CPU, unmasked and unshifted; default: one that pads and labels rows",
        _DATA + "test_a_collator_that_gives_no_batch_is_refused_at_once",
    ),
    "train_dataset": Method(
        CHANGED,
        "may be an IterableDataset, whose batches stay on the host",
        _DATA + "test_a_loader_of_ones_own_trains_though_its_batches_would_be_on_a_device",
    ),
    "eval_dataset": Method(
        CHANGED,
        "is rows by number, or a dict of such sets; without it nothing is evaluated, whatever eval_strategy",
        _SETS + "test_each_set_is_evaluated_under_its_name_and_one_of_them_chooses_the_best",
    ),
    "processing_class": Method(
        WORKS, "pads, and is saved with the model", _DATA + "test_without_a_tokenizer_nothing_pads"
    ),
    "model_init": Method(WORKS, "", _SEARCH + "test_each_trial_is_the_training_that_its_values_say"),
    "callbacks": Method(WORKS, "", _HERE + "test_callbacks_come_and_go"),
    "optimizers": Method(
        CHANGED,
        "must train the weights of the model that is passed; the run log says which optimiser it was",
        _HERE + "test_an_optimizer_of_ones_own_trains_this_model_and_is_in_the_log",
    ),
    "optimizer_cls_and_kwargs": Method(
        CHANGED,
        "is in the run log",
        _HERE + "test_an_optimizer_of_ones_own_trains_this_model_and_is_in_the_log",
    ),
}


def refusal(name: str) -> str:
    """The sentence for whoever calls a method that is refused."""
    return f"{name} {METHODS[name].sentence}"


def check_overrides(kind: type, base: type) -> None:
    """Raise UserError where a subclass of ``base`` overrides what is never called."""
    for name in NOT_CALLED:
        for parent in kind.__mro__[: kind.__mro__.index(base)]:
            if name in vars(parent):
                instead = _INSTEAD.get(name, "evaluate")
                raise UserError(
                    f"{parent.__name__} overrides {name}, which is never called, so that it would have no effect; override "
                    f"{instead} in its place"
                )
