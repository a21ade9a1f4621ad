"""Complementary pairs and static shapes through the Trainer: what is counted, what compiles, what is refused."""

from __future__ import annotations

import pytest
import torch
from processes.seen_rows import Rows
from torch._dynamo.utils import counters

from hf_difflm.errors import UserError
from hf_difflm.experiments.memory.labelled_positions import most_labelled, reads_of
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.flops.network import Architecture, training_flops
from hf_difflm.runs import load_run


def test_a_scored_token_of_a_pair_counts_once_and_both_readings_cost_flops(make_diffusion_trainer):
    seen = Rows()
    trainer = make_diffusion_trainer(seen, noise_sampling="pairs", save_log_to_json=False)
    trainer.train()
    architecture = Architecture.from_config(trainer.model.config.to_dict())
    assert architecture is not None
    for row in seen.rows:
        assert row["tokens"] == 4 * 11
        assert row["flops"] == training_flops(architecture, {12: 8}, 4 * 11)
        assert row["masking_rate"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"noise_sampling": "pairs", "loss_form": "time"}, "takes exact counts, but loss_form is time"),
        (
            {"noise_sampling": "pairs", "objective": "atat"},
            "is for the objectives mdlm and bd3lm, but the objective is atat",
        ),
        ({"static_shapes": True, "objective": "atat"}, "is for the objectives mdlm, bd3lm and ar"),
        ({"static_shapes": True, "noise_sampling": "iid"}, "they are any_order and iid"),
        ({"static_shapes": True, "loss_form": "time"}, "they are time and stratified"),
        ({"static_shapes": True, "count_law": "optimal"}, "which count_law optimal has not"),
        ({"count_law": "bell", "loss_form": "time"}, "count_law bell is of exact counts, but loss_form is time"),
        ({"loss_weight": "flat", "noise_sampling": "pairs"}, "loss_weight flat is for sequences that are read once"),
        ({"count_law": "bell", "noise_sampling": "pairs"}, "count_law bell is for sequences that are read once"),
        ({"count_law": "optimal", "loss_weight": "flat"}, "is of the bound's own gradient, but loss_weight is flat"),
        ({"count_law": "optimal", "torch_compile": True}, "measures gradients that torch.compile keeps to itself"),
        (
            {"count_law": "importance", "count_law_width": 0.3},
            "count_law_width has no effect with count_law importance",
        ),
        (
            {"count_law_exponent": 0.5},
            "count_law_exponent has no effect with count_law uniform; add count_law importance",
        ),
        ({"loss_weight": "heavy"}, "loss_weight must be nelbo, flat or a number, the power q of k.-q, got 'heavy'"),
        ({"loss_weight": "nan"}, "loss_weight must be nelbo, flat or a number"),
    ],
)
def test_what_does_not_exist_together_is_refused_in_one_sentence(make_diffusion_trainer, flags, said):
    with pytest.raises(UserError, match=said):
        load_settings(None, flags)
    with pytest.raises(UserError, match=said):
        make_diffusion_trainer(**flags)


@pytest.mark.parametrize("flags", [{"count_law": "bell"}, {"loss_weight": "flat"}])
def test_laws_and_weights_of_adaptive_masks_are_refused(make_diffusion_trainer, flags):
    (name,) = flags
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is for the objective mdlm"):
        load_settings(None, flags | {"objective": "atat"})
    with pytest.raises(UserError, match="is for the objectives mdlm and bd3lm, but the objective is atat"):
        make_diffusion_trainer(objective="atat", importance="frequency_only", **flags)


def test_what_was_minimised_is_in_the_log_and_the_training_loss_is_no_bound(make_diffusion_trainer, tmp_path):
    trainer = make_diffusion_trainer(count_law="bell", loss_weight="0.5", output_dir=str(tmp_path / "weighed"))
    trainer.train()
    run = load_run(tmp_path / "weighed")
    assert run.header.metadata["train_objective"] == "p0+bell(0.4, 0.2, 0.1)+k^-0.5"
    assert run.training_loss_label == "weighted loss"
    plain = make_diffusion_trainer(count_law="bell", output_dir=str(tmp_path / "plain"))
    plain.train()
    assert "train_objective" not in load_run(tmp_path / "plain").header.metadata
    assert load_run(tmp_path / "plain").training_loss_label == "loss (nats/token)"


def test_an_autoregressive_twin_takes_any_of_them():
    flags = {"objective": "ar", "noise_sampling": "pairs", "static_shapes": True}
    assert load_settings(None, flags, beside=("mdlm", "ar")).training["static_shapes"]


def test_pairs_label_every_scored_token_of_a_micro_batch_once():
    training = load_settings(None, {"noise_sampling": "pairs"}).training
    assert reads_of(training) == 2
    assert most_labelled(training, 8, 64, 32) == 8 * 63
    assert reads_of({**training, "objective": "ar"}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "sampling"), [("mdlm", "stratified"), ("mdlm", "pairs"), ("ar", "stratified")])
def test_a_compiled_training_has_no_graph_break_and_two_graphs_of_which_one_also_tells_the_accuracy(
    make_diffusion_trainer, train_rows, objective, sampling
):
    """Of an autoregressive model the accuracy is found outside the network: it has one graph."""
    losses = []
    for compiled in (False, True):
        torch._dynamo.reset()
        counters.clear()
        seen = Rows()
        settings = {"torch_compile": True, "torch_compile_backend": "aot_eager"} if compiled else {}
        trainer = make_diffusion_trainer(
            seen,
            objective=objective,
            noise_sampling=sampling,
            static_shapes=compiled,
            max_steps=12,
            logging_steps=4,
            eval_strategy="steps",
            eval_steps=6,
            evaluation=train_rows(6, seed=1),
            save_log_to_json=False,
            **settings,
        )
        trainer.train()
        losses.append([row["loss"] for row in seen.rows])
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == (1 if objective == "ar" else 2)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
