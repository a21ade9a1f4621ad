"""``eval --generation``: every number of the grid against what one computes by hand."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections import Counter

import pytest
import torch

from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.evaluation.quality.text_statistics import distinct_n
from hf_difflm.evaluation.targets import load_target

FLAGS = ["--max-new-tokens", "24", "--num-samples", "3", "--use-cpu"]
GRID = ["--samplers", "ddpm_cache,first_hitting", "--steps", "4,24"]


@pytest.fixture
def pair(trained, trained_ar, tmp_path):
    """A folder with the two runs as ``compare`` leaves them."""
    shutil.copytree(trained, tmp_path / "pair" / "mdlm")
    shutil.copytree(trained_ar, tmp_path / "pair" / "ar")
    return tmp_path / "pair"


@pytest.fixture
def grid(hf):
    def call(*args):
        result = hf("eval", *args, "--generation", "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    return call


def _texts(run, **options):
    target = load_target(str(run), use_cpu=True)
    return generate_samples(target.model, target.tokenizer, [""] * 3, GenerationOptions(max_new_tokens=24, **options))


def _perplexity(texts, run):
    """By hand: one text, one forward, no padding."""
    judge = load_target(str(run), use_cpu=True)
    nats, tokens = 0.0, 0
    for text in texts:
        ids = [judge.tokenizer.bos_token_id, *judge.tokenizer(text.text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            log_p = judge.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats -= sum(float(log_p[place, token]) for place, token in enumerate(ids[1:]))
        tokens += len(ids) - 1
    return math.exp(nats / tokens)


def _entropy(texts):
    found = []
    for text in texts:
        counts = Counter(text.ids).values()
        found.append(-sum(one / len(text.ids) * math.log(one / len(text.ids)) for one in counts))
    return sum(found) / len(found)


def test_each_point_has_the_numbers_of_its_texts_and_their_cost(grid, pair):
    found = grid(pair / "mdlm", *GRID, *FLAGS)
    points = found["points"]
    assert [(point["sampler"], point["steps"]) for point in points] == [
        ("ddpm_cache", 4),
        ("ddpm_cache", 24),
        ("first_hitting", 4),
        ("first_hitting", 24),
        ("causal LM", None),
    ]
    for point in points[:4]:
        options = {"sampler": point["sampler"], "max_denoising_steps": point["steps"]}
        texts = _texts(pair / "mdlm", **options)
        assert point["reference_perplexity"] == pytest.approx(_perplexity(texts, pair / "ar"), rel=1e-4)
        assert point["unigram_entropy"] == pytest.approx(_entropy(texts))
        assert point["distinct_2"] == pytest.approx(distinct_n([text.ids for text in texts], 2))
        assert 0 < point["forwards"] <= point["steps"]
        assert point["seconds"] > 0
        assert point["tokens"] == pytest.approx(sum(len(text.ids) for text in texts) / 3)
    causal = points[4]
    texts = _texts(pair / "ar")
    assert causal["reference_perplexity"] == pytest.approx(_perplexity(texts, pair / "ar"), rel=1e-4)
    assert causal["on_front"] is False
    assert 1 <= causal["forwards"] <= 24


def test_one_token_a_forward_costs_as_many_forwards_as_tokens(grid, pair):
    (point, _) = grid(pair / "mdlm", "--samplers", "first_hitting", "--steps", "99", *FLAGS)["points"]
    texts = _texts(pair / "mdlm", sampler="first_hitting", max_denoising_steps=99)
    if all(len(text.ids) == 24 for text in texts):  # none came to its end before
        assert point["forwards"] == 24


def test_parameters_of_samplers_are_rows_of_their_own_and_named_everywhere(hf, grid, pair, tmp_path):
    samplers = ["--samplers", "uncertainty,uncertainty:budget=2:measure=margin,entropy_bounded:bound=0.5"]
    found = grid(pair / "mdlm", *samplers, "--steps", "4,24", *FLAGS)["points"][:-1]
    assert [(point["sampler"], point["parameters"], point["steps"]) for point in found] == [
        ("uncertainty", {}, 4),
        ("uncertainty", {}, 24),
        ("uncertainty", {"budget": 2, "measure": "margin"}, None),
        ("entropy_bounded", {"bound": 0.5}, None),
    ]
    bounded = _texts(pair / "mdlm", sampler="entropy_bounded", sampler_config={"bound": 0.5}, max_denoising_steps=24)
    assert found[3]["unigram_entropy"] == pytest.approx(_entropy(bounded))
    assert found[3]["distinct_2"] == pytest.approx(distinct_n([text.ids for text in bounded], 2))
    picture = tmp_path / "picture.svg"
    result = hf(
        "eval", pair / "mdlm", "--generation", "--markdown", "--plot", picture, *samplers, "--steps", "4", *FLAGS
    )
    assert result.code == 0, result.err
    assert "| uncertainty budget=2 measure=margin | - |" in result.out
    assert "a sampler without steps says itself how many tokens a step reveals" in result.out
    assert picture.read_text().count("<!-- uncertainty budget=2 measure=margin -->") == 1


def test_the_table_the_picture_and_where_they_go(hf, pair, tmp_path):
    result = hf("eval", pair / "mdlm", "--generation", *GRID, *FLAGS)
    assert result.code == 0, result.err
    assert "causal LM" in result.out
    assert "It misleads without the entropy" in result.out
    assert (pair / "mdlm" / "generation-pareto.png").read_bytes().startswith(b"\x89PNG")
    result = hf("eval", pair / "mdlm", "--generation", "--markdown", "--plot", tmp_path / "own.svg", *GRID, *FLAGS)
    assert result.out.startswith("| sampler | steps | perplexity |")
    assert "<svg" in (tmp_path / "own.svg").read_text()


def test_a_page_names_its_command_and_shows_the_table_and_the_picture(hf, pair, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    typed = ["eval", str(pair / "mdlm"), "--generation", "--markdown", "--output", str(page), *GRID, *FLAGS]
    monkeypatch.setattr("sys.argv", ["anything", *typed])
    result = hf(*typed)
    assert result.code == 0, result.err
    text = page.read_text()
    table = result.out[: result.out.index("\n\n")]
    assert text.count("\n" + table + "\n") == 1
    assert "](page.png)" in text
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert not (pair / "mdlm" / "generation-pareto.png").exists()
    assert f"hf-difflm eval pair/mdlm --generation --markdown --output page.md {shlex.join(GRID)}" in text
    assert str(tmp_path) not in text


def test_without_a_twin_there_is_no_perplexity_and_it_is_said(hf, grid, trained, trained_ar):
    result = hf("eval", trained, "--generation", "--steps", "4", "--samplers", "ddpm_cache", *FLAGS)
    assert result.code == 0, result.err
    assert "perplexity" not in result.out
    assert "--reference-model" in result.err
    named = grid(trained, "--steps", "4", "--samplers", "ddpm_cache", "--reference-model", trained_ar, *FLAGS)
    assert named["points"][0]["reference_perplexity"] > 1


def test_an_autoregressive_run_is_one_point(grid, trained_ar):
    (point,) = grid(trained_ar, *FLAGS)["points"]
    assert (point["sampler"], point["steps"]) == ("causal LM", None)
    assert point["unigram_entropy"] == pytest.approx(_entropy(_texts(trained_ar)))


def test_mauve_compares_with_the_evaluation_data_of_the_run(grid, pair):
    pytest.importorskip("mauve", reason="the [eval] extra is not installed")
    found = grid(pair / "mdlm", "--mauve", "--samplers", "ddpm_cache", "--steps", "4", *FLAGS[:2], "--num-samples", "6")
    assert all(0 < point["mauve"] <= 1 for point in found["points"])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--generation --samplers low_confidense", "did you mean 'low_confidence'?"),
        ("--generation --samplers ddpm,ddpm", "--samplers must be different ones"),
        ("--generation --samplers ,", "--samplers must be different ones"),
        ("--generation --samplers remdm:0.1", "write for example remdm:eta=0.1"),
        ("--generation --samplers remdm:eda=0.1", "has no parameter 'eda'; did you mean eta?"),
        ("--generation --samplers remdm:eta=3", "eta must be between 0 and 1, got 3"),
        ("--generation --samplers uncertainty:importance_weight=1", "has no importance.safetensors"),
        ("--generation --importance-weight 1", "flag --importance-weight is unknown"),
        ("--generation --steps 0", "--steps must be positive integers"),
        ("--generation --steps -3", "--steps must be different whole numbers"),
        ("--generation --steps 8,x", "--steps must be different whole numbers"),
        ("--generation --num-samples 0", "num_samples must be a positive integer"),
        ("--generation --mauve", "name one with --reference-model"),
        ("--generation --reference-model nowhere", "cannot be loaded as a causal LM"),
        ("--generation --output page.txt", "does not end in .md"),
        ("--output page.md", "flag --output is for generated texts; add --generation"),
        ("--generation --json --markdown", "--json and --markdown exclude each other"),
        ("--generation --eval-seed 3", "flag --eval-seed is for the likelihood"),
        ("--generation --mauve --eval-seed 3", "flag --eval-seed is for the likelihood; leave it out"),
        ("--generation --split test", "flag --split is for the likelihood and for --mauve"),
        ("--steps 8", "flag --steps is for generated texts; add --generation"),
        ("--max-new-tokens 8", "flag --max-new-tokens is for generated texts; add --generation"),
        ("--generation --max-new-tokens 4000", "exceed the 1024 tokens"),
        (
            "--generation --plot picture.txt --steps 2 --samplers ddpm --max-new-tokens 4",
            "end it in .png, .svg or .pdf",
        ),
    ],
)
def test_bad_input_is_one_sentence(hf, trained, flags, sentence):
    result = hf("eval", trained, "--use-cpu", *flags.split())
    assert result.code == 2
    assert sentence in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_samplers_and_steps_are_refused_for_a_causal_lm(hf, trained_ar):
    result = hf("eval", trained_ar, "--generation", "--steps", "8", *FLAGS)
    assert result.code == 2
    assert "for masked diffusion models" in result.err
