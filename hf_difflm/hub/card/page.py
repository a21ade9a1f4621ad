"""The model card, written from the run log: what the model is, how to use it, how good it is, what it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ...data.options import names_of
from ...models.file_names import CHAT_TEMPLATE, TOKENIZER_CONFIG
from ...runs import Run
from ...runs.journal.schema import COMPLETED, SampleRecord
from ...runs.journal.tables import count, fenced
from ...runs.reading.places import relative
from ..adapter_files import PushedAdapter, adapter_use
from ..log_files import CURVES, DASHBOARD
from ..source import PushSource
from . import tables as card_tables
from .metadata import card_metadata
from .past import ancestors, past
from .text import code, escaped

_REVEALS = "it starts from masks and reveals tokens in any order (absorbing state, SUBS)"
_KINDS = {
    "mdlm": f"a masked diffusion language model: {_REVEALS}",
    "bd3lm": "a block diffusion language model: it writes blocks of tokens from left to right, each from masks, which it "
    "reveals step by step",
    "atat": f"a masked diffusion language model, trained with adaptive masks (ATAT): {_REVEALS}",
    "ar": "an autoregressive language model: it writes one token after the other",
}
_MAX_SAMPLES = 4
_CHAT = """question = [{{"role": "user", "content": "Hello!"}}]
text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
if prompt[:1] != [tokenizer.bos_token_id]:  # every conversation of the training began with it
    prompt.insert(0, tokenizer.bos_token_id)
ids = model.generate(torch.tensor([prompt]), {how})
print(tokenizer.decode(ids[0, len(prompt):], skip_special_tokens=True))"""
_FILL = """from transformers import pipeline
fill = pipeline("fill-mask", model={place})
text = fill.tokenizer.bos_token + "The " + fill.tokenizer.mask_token
print([(found["token_str"], found["score"]) for found in fill(text)])"""
_MDLM = """@inproceedings{sahoo2024simple,
  title = {Simple and Effective Masked Diffusion Language Models},
  author = {Sahoo, Subham Sekhar and Arriola, Marianne and Schiff, Yair and Gokaslan, Aaron and Marroquin, Edgar and
            Chiu, Justin T and Rush, Alexander and Kuleshov, Volodymyr},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2406.07524}
}"""
_BD3LM = """@inproceedings{arriola2025block,
  title = {Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models},
  author = {Arriola, Marianne and Gokaslan, Aaron and Chiu, Justin T and Yang, Zhihan and Qi, Zhixuan and Han, Jiaqi and
            Sahoo, Subham Sekhar and Kuleshov, Volodymyr},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  note = {arXiv:2503.09573}
}"""


def model_card(
    source: PushSource,
    config: dict[str, Any],
    repo_id: str,
    *,
    revision: str | None = None,
    twin: Run | None = None,
    needs_code: bool,
    license_id: str | None = None,
    adapter: PushedAdapter | None = None,
) -> str:
    """Return the text of ``README.md``.

    Args:
        source: what is pushed.
        config: ``config.json`` of the model.
        repo_id: ``OWNER/NAME``.
        revision: branch it is pushed to; None: main.
        twin: the run it is compared with.
        needs_code: whether it is loaded with ``trust_remote_code=True``.
        license_id: an identifier that the Hub knows; None: the card names no licence.
        adapter: what is merged into the weights and goes up beside them.
    """
    name = repo_id.rpartition("/")[2]
    run = source.run
    is_denoiser = config["model_type"] == "masked_diffusion"
    parts = [
        f"# {name}",
        _what(source, config, is_denoiser, needs_code, has_adapter=adapter is not None),
        f"## Use\n\n{_use(source, config, repo_id, revision, is_denoiser, needs_code)}",
    ]
    chain = ancestors(run, config)
    if chain:
        parts.append(f"## What it was made from\n\n{past(chain, license_id)}")
    if adapter is not None:
        parts.append(f"## Adapter\n\n{adapter_use(adapter, repo_id, revision, is_denoiser, needs_code)}")
    if run is None:
        parts.append("## Training\n\nNo run log came with these weights.")
    else:
        parts += [
            f"## Likelihood\n\n{card_tables.likelihood(source, run, twin)}",
            f"## Training data\n\n{card_tables.data(run)}",
            f"## Training\n\n{card_tables.settings(run)}{_command(run)}",
            f"![training loss and evaluation nll over optimiser steps]({CURVES})\n\n![dashboard of the run]({DASHBOARD})",
            *_samples(source, run),
        ]
    parts.append(f"## Limits\n\n{_limits(config, run, is_denoiser, has_past=bool(chain))}")
    parts.append(f"## Citation\n\n{_citation(run, config, is_denoiser)}")
    adapted = adapter.base if adapter is not None else None
    metadata = card_metadata(source, config, name, license_id=license_id, adapted=adapted).to_yaml()
    body = "\n\n".join(parts)
    return str(ModelCard(f"---\n{metadata}\n---\n\n{body}\n"))


def write_model_card(folder: Path, text: str) -> None:
    """Write ``README.md`` with the line ends of the text on every system."""
    (folder / "README.md").write_bytes(text.encode("utf-8"))


def _what(source: PushSource, config: dict[str, Any], is_denoiser: bool, needs_code: bool, *, has_adapter: bool) -> str:
    run = source.run
    objective = run.objective if run is not None else None
    kind = _KINDS.get(objective or ("mdlm" if is_denoiser else "ar"), "a language model")
    inner = config.get("backbone_config")
    network = inner.get("model_type") if isinstance(inner, dict) else config["model_type"]
    lines = [f"This is {kind}. Network: {code(network)}"]
    if run is not None:
        lines += _parameters(run, has_adapter)
        lines.append(f"run {code(run.name)}")
    if source.step is not None:
        lines.append(f"weights of step {count(source.step)}")
    what = ", ".join(lines) + "."
    backbone = run.header.metadata.get("backbone") if run is not None else None
    if isinstance(backbone, dict) and isinstance(backbone.get("reads"), str):
        what += f" What it reads, measured: {escaped(backbone['reads'])}."
    if not needs_code:
        what += " It is the stock model of transformers."
    if source.is_averaged:
        what += " The weights are the exponential moving average over the training."
    return f"{what} The numbers and texts below are from the run log beside it, `journal.jsonl`." if run else what


def _parameters(run: Run, has_adapter: bool) -> list[str]:
    """Of the network that goes up, into which an adapter is merged: the log counts the adapter beside it."""
    every, trained = (run.header.model.get(name) for name in ("parameters", "trainable_parameters"))
    if not isinstance(every, int):
        return []
    if not (isinstance(trained, int) and trained < every and (has_adapter or run.config.get("lora_r"))):
        return [f"{count(every)} parameters"]
    rank = run.config.get("lora_r")
    kind = f"LoRA of rank {count(rank)}" if isinstance(rank, int) else "adapter"
    return [f"{count(every - trained)} parameters", f"{count(trained)} of a {kind} trained and merged into them"]


def _use(
    source: PushSource,
    config: dict[str, Any],
    repo_id: str,
    revision: str | None,
    is_denoiser: bool,
    needs_code: bool,
) -> str:
    auto = "AutoModelForMaskedLM" if is_denoiser else "AutoModelForCausalLM"
    place = f'"{repo_id}"' + (f', revision="{revision}"' if revision else "")
    if needs_code:
        place += (
            ", trust_remote_code=True"  # for the tokenizer too, which transformers finds by the model's configuration
        )
    longest = _longest(config)
    how = f"max_new_tokens={32 if longest is None else max(1, min(32, longest // 2))}" + (
        "" if is_denoiser else ", do_sample=True"
    )
    first = f"""from transformers import {auto}, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({place})
model = {auto}.from_pretrained({place})
ids = model.generate({how})
print(tokenizer.decode(ids[0], skip_special_tokens=True))"""
    second = f"""import torch
prompt = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode("The ", add_special_tokens=False)]])
ids = model.generate(prompt, {how})
print(tokenizer.decode(ids[0], skip_special_tokens=True))"""
    with_prompt = "With a prompt, which begins with the BOS token as the training blocks did:"
    said = [fenced(first, "python"), with_prompt, fenced(second, "python")]
    if source.run is not None and source.run.config.get("sft") and _has_chat_template(source.folder):
        asked = "It was trained on conversations. A question is written by the chat template, as they were:"
        load = first.partition("ids = ")[0]
        said = [asked, fenced(f"import torch\n{load}{_CHAT.format(how=how)}", "python")]
    elif is_denoiser and config.get("diffusion_block_start") != "answer":  # which a pipeline does not say where it is
        said += ["Tokens in the middle of a text, each a mask:", fenced(_FILL.format(place=place), "python")]
    if needs_code:
        said.append(
            "It needs torch and transformers 5 or later. `trust_remote_code=True` runs the Python files of this repository: "
            "read them, and give a `revision`. With hf\\_difflm installed no flag is needed, and no code from here is run: "
            "`hf-difflm generate " + repo_id + "`."
        )
    return "\n\n".join(said)


def _command(run: Run) -> str:
    command = run.header.metadata.get("command")
    return f"\n\n{fenced(relative(command), 'sh')}" if isinstance(command, str) else ""


def _samples(source: PushSource, run: Run) -> list[str]:
    """Texts of the last time that the model wrote any, up to the step of these weights."""
    known = [record for record in run.samples if source.step is None or record.iter <= source.step]
    if not known:
        return []
    last = known[-1].iter
    shown = f"As it wrote them at step {count(last)}, not selected; control characters are shown as escapes."
    records = [record for record in known if record.iter == last][:_MAX_SAMPLES]
    return ["## Sample texts", shown, *(f"{_prompt(record)}\n\n{fenced(record.text)}" for record in records)]


def _prompt(record: SampleRecord) -> str:
    mode = record.extra.get("mode")
    how = f" ({escaped(mode)})" if isinstance(mode, str) else ""
    return f"Prompt{how}:\n\n{fenced(record.prompt)}\n\nText:" if record.prompt else f"No prompt{how}:"


def _limits(config: dict[str, Any], run: Run | None, is_denoiser: bool, *, has_past: bool) -> str:
    longest = _longest(config)
    said = ["It can write what is wrong, biased or offensive, as its training data can be; nothing filters its texts."]
    if run is not None:
        seen = f" {count(run.tokens_seen)} scored tokens of" if run.tokens_seen is not None else ""
        names = ", ".join(code(name) for name in names_of(str(run.config.get("dataset"))))
        begins = "This training was on" if has_past else "It was trained on"
        before = "; what it was made from had seen other text before" if has_past else ""
        said.append(f"{begins}{seen} {names} and evaluated on data of the same kind only{before}.")
        if not run.config.get("sft"):
            said.append(
                "This training was on text, not on instructions; those before it may have been."
                if has_past
                else "It was not trained to follow instructions."
            )
        if run.status != COMPLETED:
            said.append(f"Its run was not completed when this was written (status: {code(run.shown_status)}).")
    if longest is not None:
        trained = run.config.get("block_size") if run is not None else None
        blocks = f"; it was trained on blocks of {count(trained)}" if isinstance(trained, int) else ""
        said.append(f"It reads at most {count(longest)} tokens at once{blocks}.")
    if is_denoiser and config.get("diffusion_block_size") != 1:
        said.append("Its likelihood is a bound, estimated by sampling: not the same thing as an exact one.")

    return "\n".join(f"- {sentence}" for sentence in said)


def _has_chat_template(folder: Path) -> bool:
    if (folder / CHAT_TEMPLATE).is_file():
        return True
    try:
        return bool(json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _longest(config: dict[str, Any]) -> int | None:
    """Tokens that the model reads at once, where its configuration says so."""
    inner = config.get("backbone_config")
    longest = (inner if isinstance(inner, dict) else config).get("max_position_embeddings")
    return longest if isinstance(longest, int) else None


def _citation(run: Run | None, config: dict[str, Any], is_denoiser: bool) -> str:
    versions = run.header.metadata.get("versions") if run is not None else None
    version = versions.get("hf_difflm") if isinstance(versions, dict) else None
    software = f"Trained with hf\\_difflm{f' {escaped(str(version))}' if version else ''}."
    if not is_denoiser:
        return software
    method = _MDLM if config.get("diffusion_block_size") is None else _BD3LM
    return f"{software} The method:\n\n{fenced(method, 'bibtex')}"
