"""Every public method of the installed Trainer has a row in the table, and does what its row says."""

from __future__ import annotations

import inspect
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.training.declarations.trainer_methods import CHANGED, CONSTRUCTOR, METHODS, OURS, REFUSED, WORKS

ROOT = Path(__file__).parents[2]


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}


# ---- the table ----


def test_every_public_method_of_the_installed_trainer_has_a_row():
    assert public(Trainer) == METHODS.keys()
    assert public(DiffusionTrainer) - public(Trainer) == set(OURS)


def test_every_argument_of_the_constructor_has_a_row():
    theirs = inspect.signature(Trainer.__init__).parameters.keys() - {"self"}
    assert theirs - CONSTRUCTOR.keys() == {"compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics"}
    assert CONSTRUCTOR.keys() <= theirs


@pytest.mark.parametrize("name", [*METHODS, *CONSTRUCTOR])
def test_a_row_names_a_test_that_exists(name):
    row = METHODS.get(name) or CONSTRUCTOR[name]
    path, _, test = row.test.partition("::")
    assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")
    assert row.verdict in (WORKS, CHANGED, REFUSED)
    assert row.sentence or row.verdict == WORKS


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.verdict == REFUSED])
def test_what_is_refused_says_what_to_do(make_diffusion_trainer, name):
    with pytest.raises(UserError, match=rf"{name} .*; call .*predict\(rows\)"):
        getattr(make_diffusion_trainer(), name)(None, None, True)


@pytest.mark.parametrize("name", ["evaluation_loop", "get_eval_dataloader", "_get_train_sampler"])
def test_an_override_that_would_have_no_effect_is_refused(train_rows, tiny_denoiser, tokenizer, tmp_path, name):
    kind = type("Mine", (DiffusionTrainer,), {name: lambda self, *args, **kwargs: None})
    args = DiffusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(UserError, match=f"Mine overrides {name}, which is never called"):
        kind(tiny_denoiser(), args, train_rows(24), processing_class=tokenizer)


# ---- the methods ----


def test_predictions_are_the_nll_of_each_row(make_diffusion_trainer, train_rows):
    rows = train_rows(7, ragged=True, seed=3)
    trainer = make_diffusion_trainer(objective="ar", eval_iters=1, per_device_eval_batch_size=3)
    found = trainer.predict(rows)
    assert found.label_ids is None
    for row, nll in zip(rows, found.predictions, strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_p = trainer.model(ids).logits.log_softmax(-1)[0, :-1]
        assert -float(log_p.gather(-1, ids[0, 1:, None]).sum()) == pytest.approx(nll, rel=1e-5)
    tokens = sum(len(row["input_ids"]) - 1 for row in rows)
    assert found.metrics["test_nll"] == pytest.approx(found.predictions.sum() / tokens)
    assert found.metrics["test_bound"] == "exact"


def test_predictions_of_a_denoiser_are_those_of_its_evaluation_and_leave_no_log(make_diffusion_trainer, train_rows):
    rows = train_rows(6, seed=3)
    trainer = make_diffusion_trainer(evaluation=rows, eval_replicates=3)
    found = trainer.predict(rows, metric_key_prefix="held_out")
    assert found.predictions.shape == (6,)
    assert not trainer.state.log_history
    assert found.metrics["held_out_nll"] == trainer.evaluate()["eval_nll"]
    with pytest.raises(UserError, match="predict takes the rows of one set"):
        trainer.predict({"a": rows})


def test_loaders_of_evaluation_sets_leave_no_row_out(make_diffusion_trainer, train_rows):
    rows = train_rows(7)
    trainer = make_diffusion_trainer(evaluation={"wiki": rows, "code": rows[:2]}, per_device_eval_batch_size=4)
    assert trainer.num_examples(trainer.get_train_dataloader()) == 24
    for loader, count in (
        (trainer.get_eval_dataloader("wiki"), 7),
        (trainer.get_eval_dataloader("code"), 2),
        (trainer.get_test_dataloader(rows), 7),
    ):
        assert sum(len(batch["input_ids"]) for batch in loader) == count == trainer.num_examples(loader)
    with pytest.raises(UserError, match="give the name of one: wiki, code"):
        trainer.get_eval_dataloader()
    with pytest.raises(UserError, match="no evaluation set 'wikki'; the evaluation sets are wiki, code"):
        trainer.get_eval_dataloader("wikki")


def test_training_goes_on_from_the_newest_checkpoint(make_diffusion_trainer):
    make_diffusion_trainer(save_strategy="steps", save_steps=3, save_log_to_json=False).train()
    again = make_diffusion_trainer(save_strategy="steps", save_steps=3, save_log_to_json=False)
    (Path(again.args.output_dir) / "checkpoint-6" / "model.safetensors").unlink()
    out = again.train(resume_from_checkpoint=True, ignore_keys_for_eval=["logits"])
    assert out.global_step == 6
    assert again._resumed_from.name == "checkpoint-3"


def test_a_trial_that_nothing_reads_is_refused(make_diffusion_trainer):
    with pytest.raises(UserError, match="a trial that nothing reads"):
        make_diffusion_trainer().train(trial={"learning_rate": 1.0})


def test_a_step_by_hand_is_the_loss_of_its_batch(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(objective="ar")
    batch = trainer.data_collator(train_rows(4))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert trainer.training_step(trainer.model, dict(batch)).item() == pytest.approx(loss.item())
    assert all(p.grad is not None for p in trainer.model.parameters())
    expected = torch.nn.functional.cross_entropy(
        trainer.model(batch["input_ids"]).logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["compute_loss_context_manager", "autocast_smart_context_manager"])
def test_every_loss_is_computed_in_these_contexts(tiny_denoiser, train_rows, tokenizer, tmp_path, name):
    entered = []

    @contextmanager
    def context():
        entered.append(name)
        yield

    args = DiffusionTrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        max_steps=2,
        per_device_train_batch_size=2,
        global_batch_size=4,
        save_strategy="no",
    )
    kind = type("Mine", (DiffusionTrainer,), {name: lambda self: context()})
    kind(tiny_denoiser(), args, train_rows(24), processing_class=tokenizer).train()
    assert len(entered) == 4


def test_batches_are_numbered_and_counted(make_diffusion_trainer):
    trainer = make_diffusion_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    loader = trainer.get_train_dataloader()
    batches, scored = trainer.get_batch_samples(iter(loader), 2, trainer.args.device)
    assert np.concatenate([batch["places"] for batch in batches]).tolist() == [0, 1, 2, 3]
    assert scored == 4 * 11
    assert trainer.get_total_train_batch_size(trainer.args) == 4
    assert (trainer.get_cp_size(), trainer.get_sp_size(), trainer.get_tp_size()) == (1, 1, 1)
    epochs, per_epoch, *_ = trainer.set_initial_training_values(trainer.args, loader)
    assert (epochs, per_epoch) == (1, 6)


def test_optimizers_and_schedules_are_made(make_diffusion_trainer):
    trainer = make_diffusion_trainer(weight_decay=0.1, learning_rate=0.5, lr_scheduler_type="linear")
    trainer.create_optimizer_and_scheduler(10)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    named = dict(trainer.model.named_parameters())
    groups = trainer.optimizer.param_groups
    assert [id(p) for p in groups[0]["params"]] == [id(named[name]) for name in named if name in decayed]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    kind, arguments = DiffusionTrainer.get_optimizer_cls_and_kwargs(trainer.args)
    assert type(trainer.optimizer) is kind
    assert arguments["lr"] == 0.5
    assert trainer.get_learning_rates() == [0.5, 0.5]
    assert trainer.get_num_trainable_parameters() == sum(p.numel() for p in named.values())
    assert trainer.get_optimizer_group(groups[0]["params"][0])["weight_decay"] == 0.1
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    assert trainer.get_learning_rates()[0] == pytest.approx(0.45)


def test_operations_are_those_of_the_batch_before(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer()
    trainer.compute_loss(trainer.model, trainer.data_collator(train_rows(4)))
    small = trainer.floating_point_ops({})
    trainer.compute_loss(trainer.model, trainer.data_collator(train_rows(8)))
    assert trainer.floating_point_ops({}) > 1.5 * small
    trainer.current_flos = 5.0
    trainer.store_flos()
    assert trainer.state.total_flos == 5.0


def test_what_is_logged_by_hand_is_in_the_history(make_diffusion_trainer):
    trainer = make_diffusion_trainer()
    trainer.log({"rewards/margins": 0.5})
    assert trainer.state.log_history[-1]["rewards/margins"] == 0.5


def test_metrics_are_shown_and_saved(make_diffusion_trainer, train_rows, capsys, tmp_path):
    trainer = make_diffusion_trainer(evaluation=train_rows(4))
    metrics = trainer.evaluate()
    capsys.readouterr()
    trainer.log_metrics("eval", metrics)
    assert "eval_bound" in capsys.readouterr().out
    assert trainer.metrics_format(metrics)["eval_nll"] == round(metrics["eval_nll"], 4)
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    saved = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert saved["eval_nll"] == metrics["eval_nll"]
    assert (tmp_path / "run" / "trainer_state.json").is_file()


def test_the_model_card_is_that_of_push(make_diffusion_trainer, train_rows, tmp_path):
    trainer = make_diffusion_trainer(evaluation=train_rows(4), eval_strategy="steps", eval_steps=3)
    with pytest.raises(UserError, match="run"):
        trainer.create_model_card()
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "a masked diffusion language model" in card
    assert f"{trainer.state.best_metric:.4f}" in card
    for picture in ("curves.png", "dashboard.png"):
        assert f"({picture})" in card
        assert (tmp_path / "run" / picture).is_file()
    with pytest.raises(UserError, match="takes no license, tags"):
        trainer.create_model_card(license="mit", tags=["a"])


def test_the_stock_cards_arguments_are_refused(make_diffusion_trainer):
    with pytest.raises(UserError, match="takes no tasks"):
        make_diffusion_trainer().push_to_hub(tasks="fill-mask")


def test_callbacks_come_and_go(make_diffusion_trainer):
    class Mine(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    kept, gone, popped = Mine(), Mine(), Mine()
    trainer = make_diffusion_trainer(kept, save_log_to_json=False)
    trainer.add_callback(gone)
    trainer.remove_callback(gone)
    trainer.add_callback(popped)
    assert trainer.pop_callback(popped) is popped
    trainer.train()
    assert (kept.steps, gone.steps, popped.steps) == (6, 0, 0)


def test_one_process_is_the_first(make_diffusion_trainer):
    trainer = make_diffusion_trainer()
    assert trainer.is_local_process_zero()
    assert trainer.is_world_process_zero()
    trainer.end()


# ---- the constructor ----


def test_without_arguments_there_are_defaults(tiny_denoiser, train_rows, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = DiffusionTrainer(tiny_denoiser(), None, train_rows(24), processing_class=tokenizer)
    assert isinstance(trainer.args, DiffusionTrainingArguments)
    assert trainer.args.eval_strategy == "no"


@pytest.mark.borders
@pytest.mark.parametrize("how", ["optimizers", "optimizer_cls_and_kwargs"])
def test_an_optimizer_of_ones_own_trains_this_model_and_is_in_the_log(
    tiny_denoiser, train_rows, tokenizer, tmp_path, how
):
    args = DiffusionTrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, max_steps=2, per_device_train_batch_size=4, save_strategy="no"
    )

    def trainer(trained: torch.nn.Module, model: torch.nn.Module) -> DiffusionTrainer:
        given = {
            "optimizers": (torch.optim.SGD(trained.parameters(), lr=0.5), None),
            "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.5}),
        }
        return DiffusionTrainer(model, args, train_rows(24), processing_class=tokenizer, **{how: given[how]})

    model = tiny_denoiser()
    before = [p.detach().clone() for p in model.parameters()]
    trainer(model, model).train()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    header = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[0])
    assert header["metadata"]["optimizer"].startswith("SGD {'lr': 0.5")
    if how == "optimizers":
        with pytest.raises(
            UserError, match=r"\d+ of the \d+ tensors that the given SGD trains are none of the model's"
        ):
            trainer(tiny_denoiser(), tiny_denoiser())
