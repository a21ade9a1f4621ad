"""The parameters of ``generate`` do what they say, travel with the model, and are refused where they make no sense."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from hf_difflm.models import MaskedDiffusionForMaskedLM, MaskedDiffusionGenerationConfig

VOCABULARY, MASK, BOS, EOS, PAD = 30, 29, 1, 2, 0


@pytest.fixture
def model(tiny_denoiser) -> MaskedDiffusionForMaskedLM:
    return tiny_denoiser(vocab_size=VOCABULARY, bos_token_id=BOS, pad_token_id=PAD).eval()


@pytest.fixture
def prompts() -> torch.Tensor:
    return torch.randint(3, MASK, (5, 4), generator=torch.Generator().manual_seed(0))


def test_temperature_zero_and_do_sample_false_take_the_likeliest(model, prompts):
    settings = {"max_new_tokens": 8, "max_denoising_steps": 1}  # one step: all from the same logits
    canvas = torch.nn.functional.pad(prompts, (0, 8), value=MASK)
    likeliest = model(canvas).logits.argmax(-1)[:, 4:]
    assert torch.equal(model.generate(prompts, temperature=0, seed=1, **settings)[:, 4:], likeliest)
    assert torch.equal(model.generate(prompts, do_sample=False, seed=2, **settings)[:, 4:], likeliest)
    assert torch.equal(model.generate(prompts, top_k=1, seed=3, **settings)[:, 4:], likeliest)


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.3), ("temperature", 3.0), ("top_k", 4), ("top_p", 0.5)])
def test_a_parameter_shapes_the_distribution_as_it_says(model, name, value):
    prompt = torch.full((3000, 1), 5)
    with torch.no_grad():
        log_p = model(torch.tensor([[5, MASK]])).logits[0, 1].log_softmax(-1).double()
    p = log_p.exp()
    order = p.argsort(descending=True)
    if name == "temperature":
        expected = (log_p / value).softmax(-1)
    elif name == "top_k":
        expected = torch.zeros_like(p).scatter(0, order[:value], p[order[:value]])
    else:
        kept = order[: int((p[order].cumsum(0) < value).sum()) + 1]
        expected = torch.zeros_like(p).scatter(0, kept, p[kept])
    expected = expected / expected.sum()
    ids = model.generate(prompt, max_new_tokens=1, max_denoising_steps=1, seed=0, **{name: value})[:, 1]
    frequency = torch.bincount(ids, minlength=VOCABULARY).double() / 3000
    assert not frequency[expected == 0].any()
    assert ((frequency - expected).abs() <= 4.5 * (expected * (1 - expected) / 3000).sqrt() + 1e-9).all()


class OnlyTheMask(LogitsProcessor):
    """Wants the mask token above all, and notes what it sees."""

    def __init__(self) -> None:
        self.canvases: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        self.canvases.append(input_ids)
        assert len(input_ids) == len(scores)
        scores = scores.clone()
        scores[:, MASK] = 1e9
        return scores


def test_a_processor_sees_the_canvas_and_cannot_bring_the_mask_back(model, prompts):
    processor = OnlyTheMask()
    ids = model.generate(
        prompts, max_new_tokens=9, max_denoising_steps=3, seed=0, logits_processor=LogitsProcessorList([processor])
    )
    assert not (ids == MASK).any()
    assert all(canvas.shape[1] == 13 for canvas in processor.canvases)
    assert sum(len(canvas) for canvas in processor.canvases) == 5 * 9  # one row for each token that is drawn


@pytest.mark.parametrize("pad", [PAD, None])
def test_what_follows_the_end_is_padding(model, prompts, pad):
    model.config.pad_token_id = model.generation_config.pad_token_id = pad
    with torch.no_grad():
        model.get_input_embeddings().weight[EOS] *= 3  # a likely EOS, tied to the head
    output = model.generate(
        prompts, max_new_tokens=25, max_denoising_steps=25, seed=0, eos_token_id=EOS, return_dict_in_generate=True
    )
    ended = 0
    for row in output.sequences[:, 4:].tolist():
        if EOS in row:
            end = row.index(EOS)
            ended += end < 24
            assert set(row[end + 1 :]) <= {EOS if pad is None else pad}
    assert ended  # the test saw one
    assert output.sequences.shape == (5, 29)


def test_an_end_in_the_prompt_ends_nothing(model):
    prompt = torch.tensor([[BOS, EOS, 5]])
    free = model.generate(prompt, max_new_tokens=10, max_denoising_steps=4, seed=0)
    held = model.generate(prompt, max_new_tokens=10, max_denoising_steps=4, seed=0, eos_token_id=[28])
    first = (free[0, 3:] == 28).nonzero()
    end = 3 + int(first[0]) if len(first) else 13
    assert torch.equal(free[0, : end + 1], held[0, : end + 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": -1},
        {"max_new_tokens": 2.5},
        {"max_denoising_steps": -1},
        {"sampler": "gibbs"},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": [1, -1]},
        {"block_length": 0},
        {"num_return_sequences": 0},
        {"repetition_penalty": 0.0},
        {"guidance_scale": -1.0},
        {"num_beams": 4},
        {"validate": 1},
    ],
    ids=str,
)
def test_a_value_out_of_range_or_an_unknown_argument_is_named(model, prompts, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        model.generate(prompts, **wrong)
    if name not in ("validate",):
        with pytest.raises(ValueError, match=name):
            MaskedDiffusionGenerationConfig(**wrong)


def test_a_text_longer_than_the_model_takes_is_refused(model, prompts):
    with pytest.raises(ValueError, match=r"4 tokens.*61.*64"):
        model.generate(prompts, max_new_tokens=61)
    assert model.generate(prompts, max_new_tokens=60, max_denoising_steps=1).shape == (5, 64)


def test_an_empty_prompt_needs_a_bos(tiny_denoiser):
    with pytest.raises(ValueError, match="bos_token_id"):
        tiny_denoiser(vocab_size=VOCABULARY).generate(max_new_tokens=3)


def test_the_parameters_travel_with_the_model(model, prompts, tmp_path):
    model.generation_config = MaskedDiffusionGenerationConfig(
        max_new_tokens=7, max_denoising_steps=3, sampler="ddpm", temperature=0.5, top_k=9, seed=4, eos_token_id=EOS
    )
    model.save_pretrained(tmp_path)
    loaded = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path).eval()
    ours, theirs = loaded.generation_config.to_dict(), model.generation_config.to_dict()
    for volatile in ("transformers_version", "_from_model_config"):
        ours.pop(volatile, None), theirs.pop(volatile, None)
    assert ours == theirs
    assert torch.equal(loaded.generate(prompts), model.generate(prompts))
    assert MaskedDiffusionGenerationConfig.from_pretrained(tmp_path).top_k == 9


def test_arguments_win_over_the_configuration_given_and_that_over_the_models(model, prompts):
    model.generation_config.max_new_tokens = 5
    model.generation_config.max_denoising_steps = 2
    given = MaskedDiffusionGenerationConfig(max_new_tokens=6)
    assert model.generate(prompts).shape[1] == 4 + 5
    assert model.generate(prompts, given).shape[1] == 4 + 6
    assert model.generate(prompts, given, max_new_tokens=7).shape[1] == 4 + 7
    assert given.max_denoising_steps is None  # what is given is not written to
    assert model.generation_config.max_new_tokens == 5


def test_the_documented_parameters_are_those_there_are():
    documented = inspect.getdoc(MaskedDiffusionGenerationConfig)
    public = [name for name in vars(MaskedDiffusionGenerationConfig()) if not name.startswith("_")]
    assert [name for name in public if f"{name}:" not in documented] == ["transformers_version"]


@pytest.mark.parametrize("temperature", [1e-9, 1e-40, 1e-300])
def test_a_temperature_next_to_nothing_is_the_likeliest_token(model, prompts, temperature):
    settings = {"max_new_tokens": 8, "max_denoising_steps": 4, "seed": 1}
    ids = model.generate(prompts, temperature=temperature, **settings)
    assert torch.equal(ids, model.generate(prompts, temperature=0, **settings))


@pytest.mark.parametrize("sampler", ["ddpm_cache", "low_confidence", "uncertainty", "remdm"])
@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("left", [float("-inf"), float("inf"), float("nan")])
def test_logits_that_leave_nothing_to_draw_are_one_sentence(model, prompts, sampler, temperature, left):
    def nothing_for_one(ids_NL, logits_NV):
        logits_NV = logits_NV.clone()
        logits_NV[-1] = left
        return logits_NV

    with pytest.raises(ValueError, match=r"no token can be drawn at position \d+ of text \d: ") as failure:
        model.generate(
            prompts,
            sampler=sampler,
            logits_processor=LogitsProcessorList([nothing_for_one]),
            temperature=temperature,
            max_new_tokens=4,
            max_denoising_steps=3,
        )
    assert "\n" not in str(failure.value)


def test_none_is_the_default_where_nothing_else_makes_sense_and_off_where_it_does(model, prompts):
    model.generation_config = MaskedDiffusionGenerationConfig(max_new_tokens=6)
    plain = model.generate(prompts, seed=1, max_denoising_steps=4)
    given = {"max_new_tokens": None, "temperature": None, "num_return_sequences": None, "infill": None, "sampler": None}
    assert torch.equal(model.generate(prompts, seed=1, max_denoising_steps=4, **given), plain)
    model.generation_config = MaskedDiffusionGenerationConfig(max_new_tokens=6, top_k=1, eos_token_id=EOS)
    assert not torch.equal(model.generate(prompts, seed=1, max_denoising_steps=4), plain)
    assert torch.equal(model.generate(prompts, seed=1, max_denoising_steps=4, top_k=None, eos_token_id=None), plain)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"samplr": "remdm"}, "generate does not know samplr; did you mean sampler?"),
        ({"temperature": "0.5"}, "temperature must be a number, got '0.5'"),
        ({"max_denoising_steps": True}, "max_denoising_steps must be a positive integer, got True"),
        ({"temperature": float("inf")}, "temperature must be a number, got inf"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a number, got inf"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be a number, got nan"),
        ({"top_p": "x"}, "top_p must be a number, got 'x'"),
        (
            {"sampler": "uncertainty", "importance": lambda draft_RL: torch.ones(3)},
            r"importance returned \(3,\) weights",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_sentence(model, prompts, wrong, says):
    with pytest.raises(ValueError, match=says):
        model.generate(prompts, **{"max_new_tokens": 4} | wrong)
    if "importance" not in wrong:
        with pytest.raises(ValueError, match=says):
            MaskedDiffusionGenerationConfig(**wrong)
