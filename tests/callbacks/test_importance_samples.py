"""An importance estimator that is asked about one text while it trains: what it says, when, and that nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_difflm.callbacks import ImportanceSamplesCallback, RunLogCallback, TrackerCallback
from hf_difflm.callbacks.tracking.formats import block
from hf_difflm.data import Collator
from hf_difflm.errors import UserError
from hf_difflm.objectives.adaptive.frequency_prior import frequency_importance
from hf_difflm.runs import load_run
from hf_difflm.runs.dashboard.importance_map import SOURCE, importance_maps

V = 260


def reading(trainer, tokenizer, row):
    """What a run from the command line gives the callback."""
    batch = Collator(tokenizer)([row])

    def read(model):
        with torch.no_grad():
            return trainer.training_objective.reader(model, batch, "cpu").values_BL[0]

    return read, row["input_ids"]


@pytest.fixture
def adaptive(make_diffusion_trainer, tokenizer, train_rows, tmp_path):
    """``adaptive(interval, *callbacks, **arguments)``: a Trainer of ``atat`` with a run log; None: nobody asks."""

    def make(interval, *callbacks, folder="run", **arguments):
        settings = {"objective": "atat", "save_log_to_json": False} | arguments
        trainer = make_diffusion_trainer(RunLogCallback(log_dir=tmp_path / folder), *callbacks, **settings)
        if interval is not None:
            read, ids = reading(trainer, tokenizer, train_rows(1, seed=5)[0])
            trainer.add_callback(ImportanceSamplesCallback(read, ids, interval))
        return trainer

    return make


def asked(folder):
    return [record for record in load_run(folder).measurements if record.source == SOURCE]


def test_it_says_what_the_estimator_and_the_prior_say_together(adaptive, train_rows, tokenizer, tmp_path):
    trainer = adaptive(2)
    trainer.train()
    found = importance_maps(load_run(tmp_path / "run"))[-1]
    ids_L = np.array(train_rows(1, seed=5)[0]["input_ids"])
    assert found.step == 6
    assert "".join(found.tokens) == bytes(ids_L[1:].tolist()).decode()  # the BOS is left out
    with torch.no_grad():
        embeddings_BLD = trainer.model.get_input_embeddings().weight[torch.from_numpy(ids_L)][None]
        learned_L = trainer.training_objective.networks["importance"](embeddings_BLD)[0].double().numpy()
    counts_V = np.bincount([token for row in train_rows(24) for token in row["input_ids"][1:]], minlength=V)
    prior_L = frequency_importance(counts_V)[ids_L]
    assert found.values == pytest.approx((0.7 * learned_L + 0.3 * prior_L)[1:], abs=6e-4)
    assert not np.allclose(learned_L, 0.5)  # it has learned something: it began at 0.5 everywhere


@pytest.mark.parametrize(
    ("interval", "arguments", "steps"),
    [
        (1, {}, [2, 4, 6]),
        (4, {}, [2, 4, 6]),
        (3, {"max_steps": 9, "logging_steps": 1}, [1, 3, 6, 9]),
        (100, {}, [2, 6]),
        (1, {"max_steps": 5, "logging_steps": 3}, [3, 5]),
        (2, {"eval_strategy": "steps", "eval_steps": 1}, [2, 4, 6]),
    ],
)
def test_it_asks_at_logs_of_training_the_interval_apart(adaptive, train_rows, tmp_path, interval, arguments, steps):
    adaptive(interval, evaluation=train_rows(4), **arguments).train()
    assert [record.iter for record in asked(tmp_path / "run")] == steps


@pytest.mark.slow
def test_a_long_training_is_asked_about_200_times(adaptive, tmp_path):
    adaptive(1, logging_steps=1, max_steps=500).train()
    steps = [record.iter for record in asked(tmp_path / "run")]
    assert steps == [1, *range(3, 500, 3), 500]


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_resumed_training_is_asked_where_it_would_have_been(adaptive, tmp_path, stop):
    settings = {"max_steps": 9, "logging_steps": 3, "save_strategy": "steps", "save_steps": stop, "save_total_limit": 9}
    adaptive(4, **settings).train()
    whole = [(record.iter, record.extra) for record in asked(tmp_path / "run")]
    adaptive(4, folder="resumed", **settings).train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
    resumed = [(record.iter, record.extra) for record in asked(tmp_path / "resumed")]
    assert resumed == [(step, extra) for step, extra in whole if step > stop]
    assert resumed[-1][0] == 9


@pytest.mark.parametrize("curriculum", ["none", "thirds"])
def test_the_training_is_the_same_bit_for_bit(adaptive, tmp_path, curriculum):
    weights, generators = [], []
    for interval in (1, None):
        trainer = adaptive(interval, folder=str(interval), curriculum=curriculum)
        torch.manual_seed(3)
        trainer.train()
        generators.append(torch.get_rng_state())
        weights.append([*trainer.model.named_parameters(), *trainer.training_objective.networks.named_parameters()])
    assert torch.equal(*generators)
    for (name, ours), (_, theirs) in zip(*weights, strict=True):
        assert torch.equal(ours, theirs), name
    assert asked(tmp_path / "1")
    assert not asked(tmp_path / "None")


def test_tensorboard_has_the_numbers_the_histogram_and_the_text(adaptive, tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter
    from tracker_files import read_tensorboard, scalars, texts

    writer = SummaryWriter(str(tmp_path / "events"))
    adaptive(2, TrackerCallback(tb_writer=writer)).train()
    writer.close()
    events = read_tensorboard(tmp_path / "events")
    records = asked(tmp_path / "run")
    for name in ("importance_text/mean", "importance_text/std", "importance_text/min", "importance_text/max"):
        steps, values = zip(*scalars(events, name), strict=True)
        assert list(steps) == [record.iter for record in records]
        assert values == pytest.approx([record.metrics[name] for record in records])
    maps = importance_maps(load_run(tmp_path / "run"))
    assert texts(events, "importance_text/text") == [(one.step, block(one.lines())) for one in maps]
    histograms = events.Histograms("importance_text")
    assert [one.step for one in histograms] == [record.iter for record in records]
    assert all(one.histogram_value.num == len(records[0].extra["tokens"]) for one in histograms)


def test_a_trainer_without_a_tokenizer_is_one_warning(make_trainer, caplog):
    def read(model):
        raise AssertionError("there is nothing to show it with")

    make_trainer(ImportanceSamplesCallback(read, [1, 2, 3], 1)).train()
    assert [record.getMessage()[:34] for record in caplog.records if record.name.startswith("hf_difflm")] == [
        "the importance of no text is shown"
    ]


def test_an_interval_below_one_is_refused():
    with pytest.raises(UserError, match="interval is 0"):
        ImportanceSamplesCallback(lambda model: [], [], 0)
