"""Text that holds a chat template's markers is read as the messages that the template would make it of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.data.conversations.answers import AnswerEncoder
from hf_difflm.data.conversations.chat_template import PLAIN_TEMPLATE
from hf_difflm.errors import UserError

pytestmark = pytest.mark.borders

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
    "{% else %}### Response:\n{{ m['content'] }}{{ eos_token if loop.last else '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|end|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "alpaca": ALPACA, "llama3": LLAMA3, "plain": PLAIN_TEMPLATE}
TALK = ["hi", "yes?", "2 + 2", "4, I think\nsurely"]
MESSAGES = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(TALK)]


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest, gpt2_like: Path) -> PreTrainedTokenizerBase:
    made = PreTrainedTokenizerFast(tokenizer_file=str(gpt2_like), eos_token="</s>", bos_token="<s>")
    names = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>"]
    made.add_special_tokens({"additional_special_tokens": names, "mask_token": "<|mask|>"})
    made.chat_template = TEMPLATES[request.param]
    return made


@pytest.mark.parametrize("turns", ["last", "all"])
def test_the_text_of_a_template_gives_the_rows_of_its_messages(tokenizer: PreTrainedTokenizerBase, turns: str) -> None:
    encoder = AnswerEncoder(tokenizer, turns=turns)
    text = str(tokenizer.apply_chat_template(MESSAGES, tokenize=False))
    expected = encoder.rows(json.dumps({"messages": MESSAGES}))
    found = encoder.rows(json.dumps({"text": text}))
    assert len(found) == len(expected) == (2 if turns == "all" else 1)
    for one, other in zip(found, expected, strict=True):
        assert tokenizer.decode(one.ids[one.context :]) == tokenizer.decode(other.ids[other.context :])
        np.testing.assert_array_equal(one.ids[one.context :], other.ids[other.context :])
        assert tokenizer.decode(one.ids[: one.context]) == tokenizer.decode(other.ids[: other.context])
    answers = [TALK[1].strip(), TALK[3]][-len(found) :]
    assert encoder.scored_texts(json.dumps({"text": text})) == answers
    assert encoder.num_answers(json.dumps({"text": text})) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "some text without markers", "holds no "),
        (lambda text: text + "<|im_start|>user\nand?<|im_end|>\n", "ends with '<|im_start|>user"),
        (lambda text: text.replace("4, I think\nsurely", ""), "is empty, or nothing comes before it"),
    ],
)
def test_text_of_which_no_answer_can_be_learned_is_refused(gpt2_like: Path, change: Any, says: str) -> None:
    made = PreTrainedTokenizerFast(tokenizer_file=str(gpt2_like), eos_token="<|im_end|>", bos_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "mask_token": "<|mask|>"})
    made.chat_template = CHATML
    text = str(made.apply_chat_template(MESSAGES, tokenize=False))
    with pytest.raises(UserError) as refused:
        AnswerEncoder(made).rows(json.dumps({"text": change(text)}))
    assert says in str(refused.value)


def test_text_whose_markers_another_template_writes_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    texts = [f"<|im_start|>user\nhi {n}<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>" for n in range(9)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.raises(UserError) as refused:
        prepare_data(DataOptions(dataset=str(path), sft=True, block_size=64), load_tokenizer("bytes"))
    assert "holds no '\\nAssistant:', with which the tokenizer's chat template begins an answer" in str(refused.value)


def test_rows_without_a_marker_are_bad_rows_among_others(tmp_path: Path) -> None:
    rows = [{"text": f"User: {n}?\nAssistant: yes {n}"} for n in range(20)]
    rows[3] = {"text": "nothing"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"dataset": str(path), "sft": True, "block_size": 64}
    with pytest.raises(UserError, match=r"holds no .* or leave such rows out by skip_bad_rows"):
        prepare_data(DataOptions(**options), load_tokenizer("bytes"))
    data = prepare_data(DataOptions(**options, skip_bad_rows=True), load_tokenizer("bytes"))
    assert "conversations in the format text with the markers of a chat template" in data.summary()
    assert "left out 1 bad row of" in data.summary()
