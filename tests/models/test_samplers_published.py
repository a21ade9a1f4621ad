"""The samplers released models were published with: the tokens of their authors' code, its counts, its faults."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.sampler_names import PUBLISHED
from hf_difflm.models.masked_diffusion.samplers_published import dream_counts, even_counts

FIXTURES = Path(__file__).parents[1] / "fixtures" / "released"


LONG = {"max_denoising_steps": 64}  # more than enough: the law has steps of its own


def runs(name: str) -> list[Any]:
    """What a fixture's authors' samplers wrote, by ``make.py`` and by ``sample.py``."""
    facts = json.loads((FIXTURES / name / "expected.json").read_text())["generate"]
    sampled = json.loads((FIXTURES / name / "sampled.json").read_text())
    every = [*({"prompt": facts["prompt"], **run} for run in facts["runs"]), *sampled]
    return [pytest.param(run, id=f"{number}") for number, run in enumerate(every)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("released")
    return {name: convert(str(FIXTURES / name), place / name).folder for name in ("llada", "dream", "sdar")}


@pytest.fixture
def written(folders):
    """A function that samples a fixture's model as a run says: its tokens."""

    def write(name: str, run: dict[str, Any], new: int, **more: Any) -> list[int]:
        model = MaskedDiffusionForMaskedLM.from_pretrained(
            folders[name], dtype=getattr(torch, run.get("dtype", "float32"))
        )
        mask = model.config.mask_token_id
        with torch.no_grad():
            model.lm_head.weight.mul_(run.get("head", 1.0))
            if "mask_like" in run:
                token, factor = run["mask_like"]
                model.lm_head.weight[mask] = factor * model.lm_head.weight[token]
        shared = {"max_new_tokens": new, "eos_token_id": None, "temperature": 0.0, "seed": 0}
        return model.eval().generate(torch.tensor([run["prompt"]]), **{**shared, **more})[0].tolist()

    return write


@pytest.fixture
def said(caplog):
    """A function: what was warned of."""
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]  # it says a thing once in a process
    transformers = logging.getLogger("transformers")
    transformers.propagate, before = True, transformers.propagate
    yield lambda: " ".join(record.getMessage() for record in caplog.records)
    transformers.propagate = before


@pytest.mark.parametrize("run", runs("llada"))
def test_llada_writes_what_its_authors_write(run, written):
    more = {"block_length": run["block_length"], "max_denoising_steps": run["steps"], "sampler": "llada"}
    assert written("llada", run, run["gen_length"], **more) == run["tokens"]


@pytest.mark.parametrize("run", runs("dream"))
def test_dream_writes_what_its_authors_write(run, written):
    more = {"max_denoising_steps": run["steps"], "sampler": "dream", "sampler_config": {"alg": run["alg"]}}
    more |= {key: run[key] for key in ("top_k", "top_p") if key in run}
    assert written("dream", run, run["max_new_tokens"], **more) == run["tokens"]


@pytest.mark.parametrize("run", [run for run in runs("sdar") if run.values[0].get("law") != "llada2"])
@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1.0])
def test_sdar_writes_what_its_authors_write(run, temperature, written):
    """Theirs were made at 1e-6, or with ``top_k=1``."""
    if temperature == 1 and "top_k" not in run:
        return
    config = {"remasking": run["remasking"], "threshold": run["threshold"], "denoising_steps": run["steps"]}
    more = {"sampler": "sdar", "sampler_config": config, "temperature": temperature, "top_k": run.get("top_k"), **LONG}
    found, prompt = written("sdar", run, run.get("new", 8), **more), run["prompt"]
    overwritten = run["tokens"][: len(prompt)] != prompt
    assert found[: len(prompt)] == prompt
    assert overwritten or found == run["tokens"]


@pytest.mark.parametrize("run", [run for run in runs("sdar") if run.values[0].get("law") == "llada2"])
def test_llada2_writes_what_its_authors_write(run, written):
    config = {"threshold": run["threshold"], "denoising_steps": run["steps"]}
    assert written("sdar", run, run["new"], sampler="llada2", sampler_config=config, **LONG) == run["tokens"]


def revealed(model: MaskedDiffusionForMaskedLM, **more: Any) -> list[int]:
    """How many tokens each step revealed of one text."""
    output = model.generate(
        torch.tensor([[3, 4]]), temperature=0, seed=0, eos_token_id=None, return_dict_in_generate=True, **more
    )
    return torch.bincount(output.reveal_steps[0, 2:], minlength=more["max_denoising_steps"] + 1)[1:].tolist()


@pytest.mark.parametrize(
    ("sampler", "tokens", "steps", "counts"),
    [
        ("llada", 10, 4, [3, 3, 2, 2]),
        ("llada", 7, 3, [3, 2, 2]),
        ("llada", 3, 5, [1, 1, 1, 0, 0]),
        ("dream", 10, 4, [2, 2, 2, 4]),
        ("dream", 8, 8, [0, 1, 1, 1, 1, 1, 1, 2]),
        ("dream", 16, 8, [1, 2, 2, 2, 2, 2, 2, 3]),
    ],
)
def test_each_step_reveals_what_the_published_code_reveals(sampler, tokens, steps, counts, tiny_denoiser):
    """The numbers are of runs of the authors' code."""
    more = {"max_new_tokens": tokens, "max_denoising_steps": steps, "sampler": sampler}
    model = tiny_denoiser(vocab_size=30).eval()
    with torch.no_grad():  # never the likeliest
        model.lm_head.weight[model.config.mask_token_id] = 0
    assert revealed(model, **more) == counts


@given(tokens=st.integers(0, 600), steps=st.integers(1, 600))
def test_even_counts_are_those_of_get_num_transfer_tokens(tokens, steps):
    counts = [int(even_counts(np.array([tokens]), step, steps)[0]) for step in range(1, steps + 1)]
    theirs = torch.zeros(steps, dtype=torch.int64) + tokens // steps
    theirs[: tokens % steps] += 1
    assert counts == theirs.tolist()
    assert sum(counts) == tokens


@given(masks=st.integers(1, 600), steps=st.integers(1, 600))
@settings(max_examples=30)
def test_dreams_counts_are_those_of_its_loop(masks, steps):
    timesteps, left = torch.linspace(1, 1e-3, steps + 1), masks
    for step in range(steps):
        t, s = timesteps[step], timesteps[step + 1]
        number = torch.tensor(left) / 1
        theirs = int(number * (1 - s / t)) if step < steps - 1 else int(number)
        assert dream_counts(np.array([left]), step + 1, steps, 1e-3).tolist() == [theirs]
        left -= theirs
    assert left == 0


@pytest.mark.parametrize(
    ("name", "change", "new", "more", "sentence"),
    [
        ("dream", {}, 8, {"max_denoising_steps": 8}, "1 of 8 steps reveal nothing, and the last reveals 2"),
        ("llada", {"hole": 2}, 8, {"max_denoising_steps": 4}, "masks before a block are filled but not counted"),
        ("llada", {"hole": 2}, 8, {"max_denoising_steps": 4}, "1 masks are left in text 0"),
        ("llada", {"mask_like": (192, 2.0)}, 8, {"max_denoising_steps": 4}, "8 masks are left in text 0"),
        ("sdar", {"length": 7}, 5, {"sampler_config": {"denoising_steps": 2}}, "overwrites tokens of the prompt"),
        ("sdar", {}, 4, {}, "every confidence is 1"),
        ("sdar", {}, 5, {}, "ends inside a block"),
    ],
)
def test_faults_of_the_published_code_are_named(name, change, new, more, sentence, written, said):
    prompt = json.loads((FIXTURES / name / "expected.json").read_text())["generate"]["prompt"]
    if "hole" in change:
        prompt[change["hole"]] = 259
    run = {"prompt": prompt[: change.get("length")], **change}
    written(name, run, new, sampler=name, **{**LONG, **more})
    assert sentence in said()


def test_nothing_is_said_where_nothing_strikes(written, said):
    run = {"prompt": [3, 4, 5, 6]}
    written("llada", run, 8, sampler="llada", max_denoising_steps=8)
    written("dream", run, 8, sampler="dream", max_denoising_steps=2)
    written("sdar", run, 8, sampler="llada2", **LONG)
    assert "masks" not in said()
    assert not any(name in said() for name in PUBLISHED)


@pytest.mark.parametrize("sampler", ["llada", "dream"])
def test_rows_stay_apart(sampler, tiny_denoiser, said):
    """Dream's own code would leave masks in one, and mask tokens of the other again."""
    model = tiny_denoiser(vocab_size=30, pad_token_id=0).eval()
    mask = model.config.mask_token_id
    ids = torch.tensor([[5, mask, 6, mask, 7], [0, 0, 3, 4, 5]])
    attention = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    shared = {"max_new_tokens": 6, "max_denoising_steps": 4, "sampler": sampler, "temperature": 0, "eos_token_id": None}
    together = model.generate(ids, attention_mask=attention, **shared)
    assert torch.equal(together[:1], model.generate(ids[:1], **shared))
    assert torch.equal(together[1:, 5:], model.generate(ids[1:, 2:], **shared)[:, 3:])
    assert (sampler == "dream") == ("unequal numbers of masks" in said())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"sampler": "sdar", "denoising_steps": 0}, "denoising_steps must be a positive integer, got 0"),
        ({"sampler": "sdar", "remasking": "entropy_bounded"}, "remasking must be one of .* got 'entropy_bounded'"),
        ({"sampler": "dream", "alg": "origin"}, "alg must be one of .* got 'origin'"),
        ({"sampler": "dream", "eps": 0.0}, "eps must be between 0 and 1, got 0.0"),
        ({"sampler": "llada2"}, "llada2 is for a model with diffusion blocks, but this one has none"),
    ],
)
def test_what_is_no_published_law_is_refused(config, sentence, tiny_denoiser):
    with pytest.raises(ValueError, match=sentence):
        tiny_denoiser().generate(torch.tensor([[3]]), max_new_tokens=2, sampler_config=config)


def test_too_few_steps_are_refused(written):
    run = {"prompt": [3, 4, 5, 6]}
    with pytest.raises(
        ValueError, match="llada2 needs 4 steps for 4 tokens of a block, but max_denoising_steps leave it 2"
    ):
        written("sdar", run, 8, sampler="llada2", max_denoising_steps=4)
    assert written("sdar", run, 8, sampler="llada2", max_denoising_steps=4, sampler_config={"denoising_steps": 2})
