"""Prompts are context and answers are scored, to the token; both objectives score the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_difflm.data import Collator, DataOptions, PreparedData, load_tokenizer, prepare_data
from hf_difflm.data.conversations.answers import AnswerEncoder
from hf_difflm.data.conversations.chat_template import PLAIN_TEMPLATE
from hf_difflm.data.prepared_folder import refuse_target
from hf_difflm.errors import UserError
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.objectives import CausalObjective, MaskedDiffusionObjective, NoiseKey

BOS, EOS, PAD = 256, 257, 258
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Sft = Callable[..., PreparedData]


def chat(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]}


def row_of(document: Any, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Any:
    return AnswerEncoder(tokenizer, **options).encode(json.dumps(document))


@pytest.fixture
def plain() -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer("bytes")
    tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


@pytest.fixture
def chatml(gpt2_like: Path) -> PreTrainedTokenizerBase:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(gpt2_like), eos_token="<|im_end|>", bos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "mask_token": "<|mask|>"})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def sft(tmp_path: Path) -> Sft:
    """``sft(rows, **options)``: prepared from a .jsonl file, with the bytes tokenizer."""

    def make(rows: list[dict[str, Any]], tokenizer: Any = None, **options: Any) -> PreparedData:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"dataset": str(path), "block_size": 64, "sft": True, **options}
        return prepare_data(DataOptions(**given), tokenizer or load_tokenizer("bytes"))

    return make


def test_the_plain_template_writes_turns_as_lines(plain: PreTrainedTokenizerBase) -> None:
    row = row_of(chat("hi", "yes?", "2 + 2", "4 é"), plain)
    prompt = b"User: hi\nAssistant: yes?\nUser: 2 + 2\nAssistant:"
    answer = " 4 é".encode()
    assert row.ids.tolist() == [BOS, *prompt, *answer, EOS]
    assert row.context == 1 + len(prompt)
    assert row.num_bytes == len(answer)


def test_prompt_and_completion_that_are_text_stay_the_text_that_they_are(plain: PreTrainedTokenizerBase) -> None:
    row = row_of({"prompt": "Q [EOS]", "completion": "A"}, plain)
    assert row.ids.tolist() == [BOS, *b"Q [EOS]", *b"A", EOS]
    assert (row.context, row.num_bytes) == (8, 1)


def test_an_empty_prompt_leaves_bos_as_context(plain: PreTrainedTokenizerBase) -> None:
    assert row_of({"prompt": "", "completion": "A"}, plain).context == 1


def test_a_template_with_special_tokens_of_its_own_ends_an_answer_with_its_eos(chatml: PreTrainedTokenizerBase) -> None:
    row = row_of(chat("The cat sat", "on the mat"), chatml)
    start, end = chatml.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    text = chatml.decode(row.ids)
    assert text == "<|im_end|><|im_start|>user\nThe cat sat<|im_end|>\n<|im_start|>assistant\non the mat<|im_end|>"
    assert chatml.decode(row.ids[row.context :]) == "on the mat<|im_end|>"  # not the newline behind it
    assert (row.ids == start).sum() == 2
    assert row.ids[-1] == end
    assert row.num_bytes == len("on the mat")


def test_a_template_that_changes_its_mind_about_the_prompt_is_refused(plain: PreTrainedTokenizerBase) -> None:
    plain.chat_template = "{{ messages | length }}{% if add_generation_prompt %}>{% endif %}"
    with pytest.raises(UserError, match="writes another text before an answer"):
        row_of(chat("a", "b"), plain)


def test_a_template_that_refuses_a_conversation_is_quoted(plain: PreTrainedTokenizerBase) -> None:
    plain.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match=r"refuses a conversation of user, assistant \(roles must alternate\)"):
        row_of(chat("a", "b"), plain)


def test_the_mask_token_in_a_conversation_is_refused(chatml: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="holds the mask token"):
        row_of(chat("a", "<|mask|>"), chatml)


def test_filling_up_scores_further_ends(plain: PreTrainedTokenizerBase) -> None:
    row = row_of({"prompt": "Q", "completion": "A"}, plain, filled_to=6)
    assert row.ids.tolist() == [BOS, *b"QA", EOS, EOS, EOS]
    assert row.num_bytes == 1
    assert len(row_of({"prompt": "Q", "completion": "A" * 9}, plain, filled_to=6).ids) == 12


def test_rows_say_what_is_scored_and_counts_add_up(sft: Sft) -> None:
    rows = [{"prompt": f"number {i}:", "completion": " yes" * (1 + i % 3)} for i in range(40)]
    data = sft(rows, eval_fraction=0.25)
    assert len(data.train) + len(data.eval) + len(data.test) == 40
    for side, held in (("train", data.train), ("eval", data.eval), ("test", data.test)):
        scored = [np.asarray(row["input_ids"])[np.asarray(row["labels"]) != -100] for row in held]
        for row, ids in zip(held, scored, strict=True):
            assert bytes(ids[:-1].astype(np.uint8)).decode().strip("yes ") == ""
            assert ids[-1] == EOS
            assert row["num_bytes"] == len(ids) - 1
        count = data.counts[side]
        assert count.tokens == sum(map(len, scored))
        assert count.tokens + count.context_tokens == sum(len(row["input_ids"]) for row in held)
        assert count.scored_share == pytest.approx(count.tokens / (count.tokens + count.context_tokens))
    assert "of them scored" in data.summary()
    assert "no chat template" in data.summary()


def test_equal_conversations_are_held_out_together_and_each_is_a_document(sft: Sft) -> None:
    data = sft([chat(f"q{i % 20}", "a") for i in range(60)], eval_fraction=0.3)
    sides = [{bytes(row["input_ids"][1:12].astype(np.uint8)) for row in side} for side in (data.train, data.eval)]
    assert sides[0].isdisjoint(sides[1])
    assert len({int(row["document_ids"][-1]) for row in data.eval}) == len(data.eval)
    assert all(row["document_ids"][0] == -1 for row in data.eval)


def test_conversations_longer_than_a_block_are_left_out_and_said(sft: Sft) -> None:
    rows = [{"prompt": "q", "completion": "a" * size} for size in (5, 6, 7, 90)]
    data = sft(rows, eval_dataset=None, eval_fraction=0.3, test_fraction=0.0, block_size=20)
    assert sum(len(side) for side in (data.train, data.eval)) == 3
    assert "left out 1 conversation of" in data.summary()
    assert "more than block_size 20 tokens (the longest takes 93)" in data.summary()
    with pytest.raises(UserError, match="takes more than block_size 4 tokens, the shortest"):
        sft(rows, block_size=4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sft_turns": "first"}, "sft_turns is 'first'; give one of last, all"),
        ({"sft": False, "sft_turns": "all"}, "add sft"),
        ({"sft": False, "sft_fill_eos": True}, "add sft"),
    ],
)
def test_options_that_exclude_each_other_are_refused(sft: Sft, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        sft([chat("a", "b")] * 2, **options)


def test_prepared_blocks_and_running_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --sft"):
        refuse_target(DataOptions(dataset="sums", sft=True), tmp_path / "blocks", overwrite=False)
    with pytest.raises(UserError, match="'python-docs' is running text"):
        prepare_data(DataOptions(dataset="python-docs", sft=True), load_tokenizer("bytes"))


def test_a_lone_conversation_cannot_be_held_out(sft: Sft) -> None:
    with pytest.raises(UserError, match="one conversation"):
        sft([chat("a", "b")])


def test_prompts_are_never_masked_and_both_objectives_score_the_same_answers(
    sft: Sft, tiny_denoiser: Any, tiny_causal: Any
) -> None:
    tokenizer = load_tokenizer("bytes")
    data = sft([chat(f"what is {i}?", str(i * i)) for i in range(30)], tokenizer, eval_fraction=0.5, test_fraction=0.0)
    collate = Collator(tokenizer)
    batch = collate([data.train[i] for i in range(8)])
    assert (batch["input_ids"][batch["attention_mask"] == 0] == PAD).all()  # on the right
    objective = MaskedDiffusionObjective(mask_token_id=259)
    scored_BL = (batch["labels"] != -100).numpy()
    for step in range(5):
        corruption = objective.corrupt(scored_BL, NoiseKey(0, step, np.arange(8), 8))
        assert not (corruption.masked_BL & ~scored_BL).any()
        assert corruption.masked_BL.any(-1).all()
    results = [
        evaluate_likelihood(model, kind, list(EvaluationBatches(data.eval, collate, 4)), len(data.eval), replicates=2)
        for model, kind in ((tiny_denoiser(), objective), (tiny_causal(), CausalObjective()))
    ]
    assert results[0].unit_ids.tolist() == results[1].unit_ids.tolist()
    assert results[0].unit_tokens.tolist() == results[1].unit_tokens.tolist()
    assert results[0].scored_tokens == data.counts["eval"].tokens
    assert results[0].num_bytes == results[1].num_bytes == data.counts["eval"].num_bytes


def test_the_causal_nll_of_an_answer_is_that_of_its_tokens_after_the_prompt(sft: Sft, tiny_causal: Any) -> None:
    tokenizer, model = load_tokenizer("bytes"), tiny_causal().eval()
    data = sft([{"prompt": "ab" * i, "completion": "cd" * (4 - i)} for i in range(4)], tokenizer, eval_fraction=0.5)
    rows = [data.eval[i] for i in range(len(data.eval))]
    batches = list(EvaluationBatches(data.eval, Collator(tokenizer), 2))
    result = evaluate_likelihood(model, CausalObjective(), batches, len(rows))
    total = 0.0
    for row in rows:
        ids = torch.from_numpy(np.asarray(row["input_ids"], dtype=np.int64))
        with torch.no_grad():
            log_p = model(ids[None]).logits[0].log_softmax(-1)
        start = int((row["labels"] == -100).sum())
        total -= sum(log_p[i - 1, ids[i]].item() for i in range(start, len(ids)))
    assert result.nll * result.scored_tokens == pytest.approx(total, rel=1e-5)


WITH_TOOLS = (
    "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t['function']['name'] }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c['function']['name'] }}({{ c['function']['arguments'] | tojson }}){% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLING: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "2 + 2?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I add.",
            "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
        },
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
}


@pytest.mark.borders
def test_a_call_is_the_answer_after_its_tools(chatml: PreTrainedTokenizerBase) -> None:
    chatml.chat_template = WITH_TOOLS
    row = row_of(CALLING, chatml)
    assert chatml.decode(row.ids[row.context :]) == '<think>I add.</think>add({"a": 2})<|im_end|>'
    assert "<|im_start|>tools\nadd<|im_end|>" in chatml.decode(row.ids[: row.context])
    assert row.unused == ()


@pytest.mark.borders
def test_an_answer_that_the_template_does_not_write_is_refused(chatml: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="does not write 'add' of an answer, so it would not be learned"):
        row_of(CALLING, chatml)
    chatml.chat_template = CHATML.replace(
        "{{ m['content'] }}", "{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}"
    )
    with pytest.raises(UserError, match="does not write '4' of an answer"):
        row_of(chat("2 + 2?", "4"), chatml)


@pytest.mark.borders
def test_what_is_not_written_and_not_used_is_counted_in_the_notes(sft: Sft, chatml: PreTrainedTokenizerBase) -> None:
    rows: list[dict[str, Any]] = [{**chat(f"number {i}?", "yes"), "id": i} for i in range(30)]
    for row in rows[:20]:
        row["messages"][1]["reasoning_content"] = "hm"
    for row in rows[:10]:
        row["tools"] = CALLING["tools"]
    said = " ".join(sft(rows, chatml, eval_fraction=0.5).notes)
    assert "that are not used: id (in 30 conversations)" in said
    counts = {"reasoning_content": 0, "tools": 0}
    for note in said.split("does not write ")[1:]:
        for part in note.split(","):
            for name in counts:
                if part.strip().startswith(name):
                    counts[name] += int(part.split("(in ")[1].split()[0])
    assert counts == {"reasoning_content": 20, "tools": 10}
