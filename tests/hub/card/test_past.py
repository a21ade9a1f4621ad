"""The card of a model with a past: what it was made from, whose licence that has, and how it is spoken to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from made_models import make_run, tiny

from hf_difflm.evaluation.ancestry import ancestry, ancestry_of_model
from hf_difflm.evaluation.targets import Weights, find_weights
from hf_difflm.hub.card.page import model_card
from hf_difflm.hub.remote_code import read_config
from hf_difflm.hub.source import find_source
from hf_difflm.runs import load_run

LICENSED = "---\nlicense: apache-2.0\n---\n# A model\n"


def with_header(run: Path, **changes: Any) -> Path:
    """Change the first record of a run's log."""
    path = run / "journal.jsonl"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(first)
    for name, value in changes.items():
        record[name] = {**record[name], **value}
    path.write_text("\n".join([json.dumps(record), *rest]) + "\n", encoding="utf-8")
    return run


def card_of(run: Path, license_id: str | None = None, **config: Any) -> tuple[str, Any]:
    source = find_source(run)
    text = model_card(source, read_config(source.folder) | config, "o/n", needs_code=True, license_id=license_id)
    card = ModelCard(text)
    assert ModelCard(card.content).data.to_dict() == card.data.to_dict(), "what the Hub reads is what was written"
    return text, card.data


def test_the_chain_of_parents_is_told_with_commit_and_licence(tmp_path, tokenizer):
    tiny(1).save_pretrained(tmp_path / "snapshot")
    (tmp_path / "snapshot" / "README.md").write_text(LICENSED)
    far = ancestry(Weights(tmp_path / "snapshot", None, "o/base", commit="abc123"), "o/base")
    assert far == {"source": "o/base", "commit": "abc123", "license": "apache-2.0"}
    middle = with_header(make_run(tmp_path / "middle", tiny(2), tokenizer), metadata={"parent": far})
    near = ancestry(find_weights(str(middle)), str(middle / "best"))
    assert near == {"source": "middle", "run": load_run(middle).header.run_id, "step": 20, "parent": far}
    run = with_header(make_run(tmp_path / "run", tiny(3), tokenizer, dataset="o/data"), metadata={"parent": near})
    text, data = card_of(run)
    assert "- This model was trained from `middle` (run `id-mdlm`, step 20).\n" in text
    assert "- `middle` was trained from `o/base` (commit `abc123`, licence `apache-2.0`).\n" in text
    assert "This card names no licence of its own" in text
    assert "; what it was made from had seen other text before." in text
    assert "It was not trained to follow instructions" not in text
    assert (data.base_model, data.license) == ("o/base", None)
    text, data = card_of(run, "mit")
    assert "names no licence" not in text
    assert data.license == "mit"


def test_a_conversion_stands_behind_what_was_trained_from_it(tmp_path, tokenizer):
    converted = {"source": "o/causal", "kind": "causal LM", "model_type": "gpt2", "commit": "abc123", "license": "mit"}
    run = with_header(make_run(tmp_path / "run", tiny(1), tokenizer), metadata={"parent": {"source": "denoiser"}})
    text, data = card_of(run, converted_from=converted)
    assert "- This model was trained from `denoiser`.\n" in text
    assert "- `denoiser` was converted from `o/causal` (causal LM, commit `abc123`, licence `mit`).\n" in text
    assert data.base_model == "o/causal"


def test_a_model_without_a_past_says_nothing_of_one(tmp_path, tokenizer):
    text, data = card_of(make_run(tmp_path / "run", tiny(1), tokenizer))
    assert "What it was made from" not in text
    assert "- It was not trained to follow instructions.\n" in text
    assert data.base_model is None


def test_parameters_are_those_of_the_network_and_the_adapter_is_counted_beside(tmp_path, tokenizer):
    run = with_header(
        make_run(tmp_path / "run", tiny(1), tokenizer, lora_r=4), model={"parameters": 1300, "trainable_parameters": 66}
    )
    assert "1,234 parameters, 66 of a LoRA of rank 4 trained and merged into them" in card_of(run)[0]


def test_every_data_set_of_a_mixture_is_named(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", tiny(1), tokenizer, dataset="o/one=0.75 o/two=0.25 mine.txt=1")
    shares = {"o/one": 0.375, "o/two": 0.125, "mine.txt": 0.5}
    text, data = card_of(with_header(run, data={"mixture": shares, "counts": {"train": {"scored_share": 0.25}}}))
    assert data.datasets == ["o/one", "o/two"]
    assert "2,000 scored tokens of `o/one`, `o/two`, `mine.txt` and evaluated" in text
    assert "| share of `o/two` | 12.5 % of the tokens |" in text
    assert "| train set | 0.250 scored\\_share |" in text


def test_what_others_wrote_as_their_licence_or_past_is_shown_and_not_obeyed(tmp_path, tokenizer):
    folder = tmp_path / "model"
    tiny(1).save_pretrained(folder)
    for head in ("license: 'x](http://e.org)'", "license: [mit]", "license: &a [*a]", "- list"):
        (folder / "README.md").write_text(f"---\n{head}\n---\n")
        assert "license" not in ancestry(Weights(folder, None, "model"), str(folder)), head
    evil = {"source": "<b>\n# Injected `x`", "kind": "![x](http://e.org)", "commit": 5}
    text, data = card_of(make_run(tmp_path / "run", tiny(1), tokenizer), converted_from={**evil, "parent": {**evil}})
    assert "\n# Injected" not in text
    assert "![x](" not in text
    assert data.base_model is None


def test_the_trainer_in_python_knows_what_its_model_was_loaded_from(tmp_path, tiny_denoiser, make_diffusion_trainer):
    assert ancestry_of_model(tiny_denoiser()) is None
    folder = tmp_path / "models--o--base" / "snapshots" / "abc123"
    tiny_denoiser().save_pretrained(folder)
    (folder / "README.md").write_text(LICENSED)
    model = type(tiny_denoiser()).from_pretrained(folder)
    expected = {"source": "o/base", "commit": "abc123", "license": "apache-2.0"}
    assert make_diffusion_trainer(model=model).facts()["parent"] == expected
