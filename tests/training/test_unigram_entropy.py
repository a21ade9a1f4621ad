"""The entropy of the token frequencies: of scored tokens alone, of a sample, in the header of the log and on the board."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback

from hf_difflm.callbacks import AlertCallback
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.runs import load_run
from hf_difflm.training.unigram_entropy import unigram_entropy


class Board(TrainerCallback):
    found: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.found = reports_of(state).unigram_entropy


def test_context_and_padding_do_not_count():
    rows = [{"input_ids": [9, 1, 1, 2]}, {"input_ids": [9, 2, 3, 3], "attention_mask": [1, 1, 1, 0]}]
    assert unigram_entropy(rows[:1], 10, bos_token_id=9) == pytest.approx(
        -(2 / 3 * math.log(2 / 3) + math.log(1 / 3) / 3)
    )
    assert unigram_entropy([rows[1]], 10, bos_token_id=9) == pytest.approx(math.log(2))
    labelled = [{"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}]
    assert unigram_entropy(labelled, 10) == pytest.approx(math.log(2))
    assert unigram_entropy([{"input_ids": [1, 1], "labels": [-100, -100]}], 10) is None
    assert unigram_entropy([{"input_ids": [1, 1]}], 10) == 0.0


def test_of_a_large_set_rows_from_all_over_it_are_read_and_a_stream_of_ones_own_is_left_alone():
    ids = np.repeat(np.arange(4), 5000)[:, None].repeat(2, axis=1)
    sorted_rows = Dataset.from_dict({"input_ids": ids}).with_format("numpy")
    assert unigram_entropy(sorted_rows, 10) == pytest.approx(math.log(4), abs=1e-3)

    def never():
        raise AssertionError("it was read")
        yield {}

    assert unigram_entropy(IterableDataset.from_generator(never), 10) is None
    assert unigram_entropy([{"text": "made ids by a collator"}], 10) is None
    assert unigram_entropy(sorted_rows, None) is None


@pytest.mark.parametrize("objective", ["mdlm", "ar", "atat"])
def test_it_is_in_the_header_and_on_the_board(make_diffusion_trainer, train_rows, tmp_path, objective):
    board, rows = Board(), train_rows(24)
    make_diffusion_trainer(board, train=rows, objective=objective).train()
    counts = np.bincount([token for row in rows for token in row["input_ids"][1:]])
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log(share)).sum()
    assert board.found == pytest.approx(entropy)
    assert load_run(tmp_path / "run").header.metadata["unigram_entropy"] == pytest.approx(entropy)


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_a_model_that_knows_frequencies_alone_is_an_alert(
    make_diffusion_trainer, train_rows, tmp_path, objective, capsys
):
    """Tokens are independent of each other, so that no network can do better; a network that does is no alert."""
    loud, calm = AlertCallback(), AlertCallback(fail_on="unigram_plateau")
    settings = {"objective": objective, "max_steps": 200, "lr_scheduler_type": "constant", "logging_steps": 20}
    independent = train_rows(512, length=33)
    make_diffusion_trainer(
        loud, train=independent, per_device_train_batch_size=16, output_dir=str(tmp_path / "loud"), **settings
    ).train()
    alerts = [event for event in load_run(tmp_path / "loud").events if event.event == "alert"]
    assert {alert.extra["kind"] for alert in alerts} == {"unigram_plateau"}
    assert "the loss has not left the unigram plateau" in capsys.readouterr().err
    repeated = [{"input_ids": [256, *32 * [97 + place % 6]]} for place in range(512)]
    trainer = make_diffusion_trainer(
        calm, train=repeated, per_device_train_batch_size=16, output_dir=str(tmp_path / "calm"), **settings
    )
    trainer.train()
    assert (calm.failure, trainer.state.global_step) == (None, 200)
    assert torch.tensor(load_run(tmp_path / "calm").column("loss")[-20:]).mean() < 0.9 * math.log(6)


class MadeByIndex(torch.utils.data.Dataset):
    """Says by its length alone where it ends: an index beyond it is a row as well."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        self.read += 1
        assert self.read < 100_000, "it is read without an end"
        return {"input_ids": [place % 4, place % 4]}


@pytest.mark.parametrize("count", [8, 20_000])
def test_a_set_that_ends_by_its_length_alone_is_not_read_for_ever(count):
    rows = MadeByIndex(count)
    assert unigram_entropy(rows, 10) == pytest.approx(math.log(4), abs=1e-2)
    assert rows.read <= 4096 + 1
