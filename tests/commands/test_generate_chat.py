"""``generate --chat``: the model gets what it was trained on, and its answer alone is printed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_difflm import MaskedDiffusionForMaskedLM
from hf_difflm.data.conversations.answers import AnswerEncoder
from hf_difflm.data.conversations.chat_template import PLAIN_TEMPLATE
from hf_difflm.data.text_ids import TextIds
from hf_difflm.evaluation.generation.chat_prompts import written
from hf_difflm.evaluation.generation.prompts import Prompt
from hf_difflm.runs.journal.tables import printable

QUESTION = {"role": "user", "content": "2 + 2?"}
SHORT = ["--max-new-tokens", "6", "--use-cpu"]
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def chatty(tmp_path):
    """``chatty(run, template)``: the best weights of a run, with a chat template."""

    def make(run, template=PLAIN_TEMPLATE):
        folder = tmp_path / "chatty"
        shutil.copytree(run / "best", folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return folder

    return make


def with_special_tokens() -> PreTrainedTokenizerFast:
    """Bytes, with the special tokens of ChatML, which begins with a BOS of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={character: place for place, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>", "[MASK]"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|im_end|>", mask_token="[MASK]"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize("kind", ["plain", "special tokens"])
def test_the_model_gets_the_ids_that_training_has_before_an_answer(kind, tokenizer):
    if kind == "plain":
        tokenizer.chat_template = PLAIN_TEMPLATE
    else:
        tokenizer = with_special_tokens()
    messages = [QUESTION, {"role": "assistant", "content": "4"}, {"role": "user", "content": "and 3 + 3?"}]
    (prompt,) = written(tokenizer, [Prompt("", {"id": 1}, messages)], "it")
    trained = AnswerEncoder(tokenizer).encode(
        json.dumps({"messages": [*messages, {"role": "assistant", "content": "6"}]})
    )
    assert TextIds.of(tokenizer, trained_here=True).prompt(prompt.text) == trained.ids[: trained.context].tolist()
    assert prompt.extra == {"id": 1, "messages": messages}


def test_a_causal_lm_answers_and_the_answer_alone_is_printed(hf, chatty, trained_ar):
    folder = chatty(trained_ar)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[tokenizer.bos_token_id, *b"User: 2 + 2?\nAssistant:"]])
    new = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=258)[0, ids.shape[1] :]
    expected = tokenizer.decode(new, skip_special_tokens=True)
    result = hf("generate", folder, "--chat", "--prompt", "2 + 2?", "--temperature", "0", "--json", *SHORT)
    assert result.code == 0, result.err
    assert json.loads(result.out) == [{"messages": [QUESTION], "prompt": "User: 2 + 2?\nAssistant:", "text": expected}]
    text = hf("generate", folder, "--chat", "--prompt", "2 + 2?", "--temperature", "0", *SHORT).out
    assert text == printable(expected.strip()) + "\n"


def test_a_denoiser_answers_conversations_of_a_file_and_never_fills_their_holes(hf, chatty, trained, tmp_path):
    folder = chatty(trained)
    rows = [{"id": 7, "messages": [QUESTION]}, {"prompt": "a [MASK] b"}, "a string"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = hf("generate", folder, "--chat", "--prompt-file", tmp_path / "in.jsonl", "--jsonl", "--ids", *SHORT)
    assert result.code == 0, result.err
    found = [json.loads(line) for line in result.out.splitlines()]
    assert [row["messages"][0]["content"] for row in found] == ["2 + 2?", "a [MASK] b", "a string"]
    assert found[0]["id"] == 7
    assert [row["prompt"] for row in found] == [
        f"User: {content}\nAssistant:" for content in ("2 + 2?", "a [MASK] b", "a string")
    ]
    assert not any("fills" in row for row in found)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(found[0]["ids"]) == found[0]["text"]
    model = MaskedDiffusionForMaskedLM.from_pretrained(folder)
    alone = hf("generate", folder, "--chat", "--prompt", "2 + 2?", "--jsonl", "--ids", *SHORT)
    assert json.loads(alone.out)["ids"] == found[0]["ids"], "a text depends on its seed and number alone"
    assert len(found[0]["ids"]) <= 6 < model.config.max_position_embeddings


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            '{"messages": []}',
            "the messages in line 1 of prompt file in.jsonl are no list of objects with role and content",
        ),
        ('{"messages": [{"role": "user"}]}', "message 1 in line 1 of prompt file in.jsonl has no role and content"),
        ('{"messages": [{"role": "assistant", "content": "4"}]}', "is an answer already"),
        ('{"id": 3}', "has no prompt"),
    ],
)
def test_lines_that_are_no_conversation_are_a_sentence(hf, tmp_path, monkeypatch, line, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text(line + "\n")
    result = hf("generate", "nowhere", "--chat", "--prompt-file", "in.jsonl", *SHORT)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err


def test_what_cannot_be_answered_is_a_sentence(hf, chatty, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    strict = chatty(trained, "{{ raise_exception('roles must alternate') }}")
    for args, sentence in (
        ((trained, "--chat", "--prompt", "a"), "has no chat template"),
        ((trained, "--chat"), "nothing is said; add --prompt"),
        ((trained, "--prompt-file", "in.jsonl"), "has messages and no prompt; add --chat"),
        ((strict, "--chat", "--prompt", "a"), "refuses a conversation of user (roles must alternate)"),
    ):
        result = hf("generate", *args, *SHORT)
        assert (result.code, result.out) == (2, ""), args
        assert sentence in result.err
        assert result.err.count("\n") == 1


@pytest.mark.borders
def test_control_tokens_that_are_typed_are_those_of_the_chat_template(hf, chatty, trained_ar, tmp_path):
    folder = chatty(trained_ar, CHATML.replace("{{ bos_token }}", ""))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.split_special_tokens = False
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    torch.manual_seed(0)
    for weights in model.parameters():  # the text hangs on every token of the prompt
        torch.nn.init.normal_(weights, std=0.5)
    model.save_pretrained(folder)
    written = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    flags = ["--temperature", "0", "--json", "--ids", *SHORT]
    typed = hf("generate", folder, "--prompt", written, *flags)
    asked = hf("generate", folder, "--chat", "--prompt", "2 + 2?", *flags)
    assert typed.code == asked.code == 0, typed.err + asked.err
    assert json.loads(typed.out)[0]["ids"] == json.loads(asked.out)[0]["ids"]
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    new = model.generate(torch.tensor([[bos, *ids]]), max_new_tokens=6, do_sample=False, pad_token_id=258)[
        0, len(ids) + 1 :
    ]
    assert json.loads(typed.out)[0]["text"] == tokenizer.decode(new, skip_special_tokens=True)
