"""Rows, collators and loaders of a user's own: read as they are meant, or refused before anything is trained."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch
from accelerate.state import PartialState
from torch.utils.data import DataLoader, IterableDataset
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, default_data_collator

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import compare_runs, load_run
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.training.given_data import fingerprint

pytestmark = pytest.mark.borders


@pytest.fixture
def given(tiny_denoiser, train_rows, tokenizer, tmp_path):
    """``given(kind=DiffusionTrainer, **of_the_constructor)``: a Trainer of 2 steps."""

    def make(kind: type = DiffusionTrainer, **arguments: Any) -> DiffusionTrainer:
        args = DiffusionTrainingArguments(
            output_dir=str(tmp_path / "run"),
            use_cpu=True,
            max_steps=2,
            per_device_train_batch_size=4,
            save_strategy="no",
            eval_replicates=2,
            save_log_to_json=False,
            disable_tqdm=True,
        )
        return kind(
            tiny_denoiser(), args, **{"train_dataset": train_rows(24), "processing_class": tokenizer, **arguments}
        )

    return make


def weights(trainer: DiffusionTrainer) -> list[torch.Tensor]:
    trainer.train()
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_without_a_tokenizer_nothing_pads(given):
    with pytest.raises(UserError, match="pass the tokenizer as processing_class"):
        given(processing_class=None)


@pytest.mark.parametrize(
    ("collator", "what"),
    [
        (DataCollatorWithPadding, "DataCollatorWithPadding have no tensor 'labels', only input_ids, attention_mask"),
        (DataCollatorForSeq2Seq, "DataCollatorForSeq2Seq have no tensor 'labels', only input_ids, attention_mask"),
        (lambda _: default_data_collator, "default_data_collator have no tensor 'labels', only input_ids"),
        (lambda _: list, "data_collator list returns a list"),
        (
            lambda _: lambda rows: {"input_ids": [row["input_ids"] for row in rows]},
            "no tensor 'input_ids', only nothing",
        ),
        (
            lambda _: lambda rows: {"input_ids": torch.zeros(1, 2, device="meta"), "labels": torch.zeros(1, 2)},
            "a batch is on meta, but its noise is drawn on the host",
        ),
    ],
)
def test_a_collator_that_gives_no_batch_is_refused_at_once(given, tokenizer, collator, what):
    with pytest.raises(UserError, match=what):
        given(data_collator=collator(tokenizer))


def test_looking_at_a_collator_moves_no_random_numbers(given, tokenizer):
    def collator(rows):
        torch.rand(3)
        ids = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": ids.clone()}

    given()
    state = torch.get_rng_state()
    given(data_collator=collator)
    assert torch.equal(torch.get_rng_state(), state)


def test_tokenised_columns_are_used_or_make_no_difference(given, train_rows):
    rows = [{**row, "labels": [-100, *row["input_ids"][1:]]} for row in train_rows(24)]
    full = [
        {
            **row,
            "attention_mask": [1] * 12,
            "token_type_ids": [0] * 12,
            "special_tokens_mask": [1] + [0] * 11,
            "text": "a",
        }
        for row in rows
    ]
    plain = weights(given())
    assert same(weights(given(train_dataset=full)), plain)
    table = datasets.Dataset.from_list(full)
    assert same(weights(given(train_dataset=table)), plain)
    assert same(weights(given(train_dataset=table.with_format("torch"))), plain)


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ({"token_type_ids": [0] * 6 + [1] * 6}, "token_type_ids tell the parts of a row apart"),
        ({"position_ids": [0] * 12}, "have position_ids, which are not read: positions are counted"),
        ({"input_ids": None}, "tokenise them first"),
    ],
)
def test_columns_that_mean_something_else_are_refused(given, train_rows, column, what):
    rows = [{name: value for name, value in {**row, **column}.items() if value is not None} for row in train_rows(24)]
    with pytest.raises(UserError, match=what):
        given(train_dataset=rows).train()


def test_sets_that_are_several_or_cannot_be_read_are_refused(given, train_rows):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(train_rows(24))

    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(train_rows(24)))
    with pytest.raises(UserError, match=r"train_dataset is a dict of sets \(train\); give one of them"):
        given(train_dataset=splits)
    with pytest.raises(UserError, match="which can be read once only"):
        given(train_dataset=iter(train_rows(24)))
    with pytest.raises(UserError, match="eval_dataset is a Stream, whose rows have no number"):
        given(eval_dataset=Stream())
    with pytest.raises(UserError, match=r"eval_dataset\['wiki'\] is a Stream"):
        given(eval_dataset={"wiki": Stream()})
    with pytest.raises(UserError, match="eval_dataset has no rows"):
        given(eval_dataset=[])
    with pytest.raises(UserError, match="a set called 'native'"):
        given(eval_dataset={"native": train_rows(2)})
    assert given(train_dataset=Stream()).train().global_step == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_loader_of_ones_own_trains_though_its_batches_would_be_on_a_device(given, train_rows, monkeypatch, stream):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(train_rows(24))

    class Mine(DiffusionTrainer):
        def get_train_dataloader(self):
            loader = DataLoader(self.train_dataset, batch_size=4, collate_fn=self.data_collator)
            # As on a GPU, on a machine without one: whatever accelerate places is there no more.
            monkeypatch.setitem(PartialState._shared_state, "device", torch.device("meta"))
            monkeypatch.setitem(self.accelerator.state._shared_state, "device", torch.device("meta"))
            try:
                prepared = super().get_train_dataloader() if stream else self.accelerator.prepare(loader)
                assert stream or prepared.device == torch.device("meta")
                return prepared
            finally:
                monkeypatch.undo()

    trainer = given(Mine, train_dataset=Stream() if stream else train_rows(24))
    assert trainer.train().global_step == 2
    assert trainer.state.num_input_tokens_seen == 2 * 4 * 11


@pytest.mark.parametrize(
    ("asked", "what"),
    [({"noise_schedule": "cosine"}, "noise_schedule is cosine, but the model was built with loglinear"),
     ({"sigma_max": 3.0}, "sigma_max is 3.0, but the model was built with 20.0")],
)  # fmt: skip
def test_a_noise_schedule_that_the_model_has_not_is_refused(make_diffusion_trainer, tiny_denoiser, asked, what):
    with pytest.raises(UserError, match=what):
        make_diffusion_trainer(**asked)
    model = tiny_denoiser(**asked)
    assert make_diffusion_trainer(model=model, **asked).training_objective.schedule == model.config.schedule()
    assert make_diffusion_trainer(model=model).training_objective.schedule == model.config.schedule()


def test_the_log_tells_one_training_set_from_another(given, train_rows, tmp_path):
    runs = []

    def header(train: Any, callbacks: Any = None) -> dict[str, Any]:
        trainer = given(train_dataset=train, eval_dataset=train_rows(8), callbacks=callbacks)
        trainer.args.save_log_to_json = callbacks is None
        trainer.train()
        runs.append(load_run(tmp_path / "run"))
        return runs[-1].header.data

    rows = train_rows(24)
    one, other = header(rows), header(train_rows(24, seed=1))
    assert one["train_fingerprint"] != other["train_fingerprint"]
    assert one["eval_fingerprint"] == other["eval_fingerprint"]
    text = compare_runs(runs, ["a", "b"]).to_text(200)
    assert "- data.train_fingerprint: " in text
    assert "are equal" not in text
    assert header(datasets.Dataset.from_list(rows)) == one
    assert header(rows[:-1])["train_fingerprint"] not in (one["train_fingerprint"], None)
    assert header(rows, [RunLogCallback()]) == one
    assert header(rows, [RunLogCallback(header={"data": {"name": "mine"}})]) == {"name": "mine"}


def test_a_fingerprint_reads_few_rows_and_no_stream(train_rows):
    class Counted(list):
        read = 0

        def __getitem__(self, place: Any) -> Any:
            self.read += 1
            return super().__getitem__(place)

    class Drawn(list):
        def __getitem__(self, place: Any) -> Any:
            return {"input_ids": torch.randint(0, 256, (4,))}

    many = Counted(train_rows(5000))
    changed = Counted([*many[:-1], {"input_ids": [256, 1, 2]}])
    many.read = 0
    assert fingerprint(many) != fingerprint(changed)
    assert many.read <= 2000
    assert fingerprint(datasets.Dataset.from_list(many[:5]).to_iterable_dataset()) is None
    assert fingerprint([{"input_ids": [[1], [2, 3]]}]) is fingerprint([{"input_ids": "text"}]) is None
    before = torch.get_rng_state()
    assert fingerprint(Drawn(many[:3])) is not None
    assert torch.equal(torch.get_rng_state(), before), "reading rows draws nothing from the training"
    assert fingerprint([{"text": "a"}]) is fingerprint(None) is fingerprint([]) is None
    assert fingerprint({"a": many, "b": changed}) != fingerprint({"a": changed, "b": many})


CONVERSATIONS = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"prompt": "a", "completion": "b"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
]


@pytest.mark.parametrize("row", CONVERSATIONS, ids=["messages", "prompt", "ShareGPT"])
def test_conversations_are_sent_to_prepare_data(given, row):
    what = r"is a conversation \(.*prepare_data\(DataOptions\(dataset=PATH, sft=True\), tokenizer\)"
    with pytest.raises(UserError, match=f"rows of train_dataset .*{what}"):
        given(train_dataset=[row] * 8)
    with pytest.raises(UserError, match=f"rows of test_dataset .*{what}"):
        given().predict([row] * 8)
    with pytest.raises(UserError, match=r"tokenise them first, as by dataset\.map"):
        given(train_dataset=[{"text": "a"}] * 8)
    with pytest.raises(UserError, match="each is a str; give dicts with input_ids"):
        given(train_dataset=["a"] * 8)
