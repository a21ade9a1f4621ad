"""Causal LMs as they are published, most without a pad token and some without BOS: eval, generate, convert, train, push."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from stock_models import STOCK, stock_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

TEXT = "the quick brown fox jumps over the lazy dog. " * 200
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHORT = ["--block-size", "64", "--max-steps", "2", "--global-batch-size", "4", "--use-cpu", "--viz-interval", "0"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("name", STOCK)
def test_it_is_evaluated_generates_and_is_converted(name, hf, text, tmp_path):
    source = stock_model(tmp_path / "source", name)
    has_end = name != "gpt_neox"
    start = [] if has_end else ["--bos-token", "<|x|>"]
    data = ["--dataset", text, "--block-size", "64", "--max-eval-blocks", "4", "--use-cpu", "--json"]
    evaluated = hf("eval", source, *data, *start)
    assert evaluated.code == 0, evaluated.err
    assert 5 < json.loads(evaluated.out)["eval_nll"] < 6
    for prompts in (["--prompt", "the quick", "--prompt", "a"], [] if has_end else ["--prompt", "a"]):
        written = hf("generate", source, *prompts, "--max-new-tokens", "4", "--use-cpu")
        assert written.code == 0, written.err
    made = hf("convert", source, "--output-dir", tmp_path / "made")
    assert made.code == 0, made.err
    evaluated = hf("eval", tmp_path / "made", *data, "--eval-replicates", "2")
    assert evaluated.code == 0, evaluated.err
    assert 5 < json.loads(evaluated.out)["eval_nll"] < 6.5
    written = hf("generate", tmp_path / "made", "--prompt", "the [MASK]uick", "--use-cpu")
    assert written.code == 0, written.err


def test_without_bos_and_eos_it_is_said_what_to_do(hf, text, tmp_path):
    source = stock_model(tmp_path / "source", "gpt_neox")
    for command in (["eval", source, "--dataset", text, "--block-size", "64"], ["generate", source]):
        result = hf(*command, "--use-cpu")
        assert (result.code, result.out) == (2, "")
        assert "name one of its tokens with --bos-token (eval), or give a prompt (generate)" in result.err


@pytest.mark.parametrize(("name", "expected"), [("qwen3", 128), ("llama", 16)])
def test_a_converted_model_writes_as_much_as_a_person_would_ask_for(name, expected, hf, text, tmp_path):
    context = {} if name == "qwen3" else {"max_position_embeddings": 32}
    source = stock_model(tmp_path / "source", name, **context)
    assert hf("convert", source, "--output-dir", tmp_path / "made").code == 0
    assert GenerationConfig.from_pretrained(tmp_path / "made").max_new_tokens == expected
    model = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "made")
    prompt = torch.tensor([[97] * 5])
    assert model.generate(prompt, max_denoising_steps=2).shape == (1, 5 + expected)
    written = hf("generate", tmp_path / "made", "--prompt", "a" * 20, "--ids", "--json", "--use-cpu")
    assert written.code == 0, written.err
    if name == "llama":  # BOS and twenty tokens leave room for eleven
        long = torch.tensor([[97] * 21])
        assert model.generate(long, max_denoising_steps=2).shape == (1, 32)
        with pytest.raises(ValueError, match=r"21 tokens \+ max_new_tokens 16 is longer than the 32"):
            model.generate(long, max_new_tokens=16)
    else:  # trained on, it does not write as much as the longest block
        options = ["--init-from", tmp_path / "made", "--dataset", text, *SHORT, "--block-size", "256"]
        trained = hf("train", "--objective", "mdlm", *options, "--output-dir", tmp_path / "run")
        assert trained.code == 0, trained.err
        assert GenerationConfig.from_pretrained(tmp_path / "run" / "best").max_new_tokens == 128


def test_the_card_of_a_fine_tuned_stock_model_names_its_parent_and_its_lines_hold_a_chat(hf, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed (pip install 'hf_difflm[peft]')")
    source = stock_model(tmp_path / "stock", "llama")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(source)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = [[("user", f"{i} + 1?"), ("assistant", str(i + 1))] for i in range(24)]
    chats = [{"messages": [{"role": role, "content": said} for role, said in row]} for row in rows]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    options = ["--dataset", tmp_path / "chats.jsonl", "--sft", "--lora-r", "2", *SHORT, "--block-size", "96"]
    trained = hf("train", "--objective", "ar", "--init-from", source, *options, "--output-dir", tmp_path / "run")
    assert trained.code == 0, trained.err
    pushed = hf("push", tmp_path / "run", "--repo-id", "o/n", "--dry-run", "--export-dir", tmp_path / "out")
    assert pushed.code == 0, pushed.err
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "- This model was trained from `stock` (licence `apache-2.0`).\n" in card
    count = AutoModelForCausalLM.from_pretrained(source).num_parameters()
    assert f"Network: `llama`, {count:,} parameters, 1,600 of a LoRA of rank 2 trained and merged into them" in card
    assert "not trained to follow instructions" not in card
    lines = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(lines.replace('"o/n"', repr(str(tmp_path / "out"))), names)
    written = "<s><|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert names["tokenizer"].decode(names["prompt"]) == written


def test_rows_of_a_tokenizer_without_bos_train_a_causal_lm_with_labels_that_leave_out_the_first(tmp_path):
    source = stock_model(tmp_path / "source", "qwen3")
    rows: list[dict[str, list[int]]] = [{"input_ids": [97, 98, 99, 100 + number]} for number in range(8)]
    arguments = DiffusionTrainingArguments(
        output_dir=str(tmp_path / "run"),
        objective="ar",
        max_steps=1,
        eval_strategy="no",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        save_log_to_json=False,
    )

    def train() -> float:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
        return DiffusionTrainer(model, arguments, rows, None, tokenizer).train().training_loss

    with pytest.raises(UserError, match="or give the rows labels that are -100 there"):
        train()
    for row in rows:
        row["labels"] = [-100, *row["input_ids"][1:]]
    assert 5 < train() < 6
