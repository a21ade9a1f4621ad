"""``train --objective bd3lm`` and what reads such a run."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from hf_difflm.evaluation.targets import load_target
from hf_difflm.runs import load_run
from hf_difflm.runs.checklist.all_checks import check_run

BLOCKS = ("--objective", "bd3lm", "--diffusion-block-size", "8")
DATA = ("--dataset", "markov", "--block-size", "33", "--use-cpu")
MORE = ("train", *DATA, "--max-steps", "2", "--eval-strategy", "no")


@pytest.fixture
def trained(hf, tiny):
    result = hf("train", *tiny, *BLOCKS, "--max-steps", "6", "--generate-interval", "3", "--output-dir", "run")
    assert result.code == 0, result.err
    return "run"


def test_it_trains_evaluates_and_writes(hf, trained):
    run = load_run(trained)
    assert (run.status, run.objective, run.bound) == ("completed", "bd3lm", "nelbo")
    assert run.config["diffusion_block_size"] == 8
    assert load_target(trained).model.config.diffusion_block_size == 8
    assert run.steps[-1].masking_rate is not None
    evaluated = hf("eval", trained, "--json")
    assert evaluated.code == 0, evaluated.err
    found = json.loads(evaluated.out)
    assert found["bound"] == "nelbo"
    assert found["eval_nll_stderr"] > 0
    written = hf("generate", trained, "--max-new-tokens", "12", "--json", "--seed", "3")
    assert written.code == 0, written.err
    assert hf("generate", trained, "--max-new-tokens", "12", "--json", "--seed", "3").out == written.out
    audited = hf("audit", trained, "--length", "3")
    assert audited.code == 0, audited.err
    assert "eval_nll of a block diffusion model (bd3lm:8)" in audited.out
    assert "the number is nowhere below the nll of that sampler (8 sequences)" in audited.out
    assert hf("doctor", "--run", trained).code == 0
    assert hf("report", trained, "--output", "page.html").code == 0


def test_a_stopped_run_goes_on_bit_for_bit(hf, tiny, trained, strike, tmp_path):
    shutil.copytree("run", "cut")
    shutil.rmtree("cut/checkpoint-6")
    strike(tmp_path / "cut", "completed")
    result = hf(
        "train", *tiny, *BLOCKS, "--max-steps", "6", "--generate-interval", "3", "--output-dir", "cut", "--resume"
    )
    assert result.code == 0, result.err
    for name in ("model.safetensors", "optimizer.pt"):
        ours, theirs = (tmp_path / run / "checkpoint-6" / name for run in ("cut", "run"))
        assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.mark.parametrize(
    "given",
    [
        ("--count-law", "bell", "--loss-weight", "flat"),
        ("--count-law", "optimal", "--noise-sampling", "iid"),
        ("--noise-sampling", "pairs", "--eval-pairs"),
        ("--loss-form", "time", "--noise-schedule", "cosine"),
        ("--static-shapes",),
    ],
    ids=" ".join,
)
def test_noise_of_every_kind_trains_and_reports_the_same_bound(hf, tiny, given):
    result = hf("train", *tiny, *BLOCKS, *given, "--max-steps", "24", "--logging-steps", "1", "--output-dir", "run")
    assert result.code == 0, result.err
    run = load_run("run")
    assert run.bound == "nelbo"
    minimised = run.header.metadata.get("train_objective") or run.header.extra.get("train_objective")
    assert minimised == ("p4+bell(0.4, 0.2, 0.1)+flat" if "flat" in given else None)
    assert json.loads(hf("eval", "run", "--json").out)["eval_nll"] == pytest.approx(run.final_evaluation.nll, rel=1e-5)
    checked = {check.name: check.outcome for check in check_run(run)}
    assert checked["masking rates as prescribed"] in ("passed", "unknown")
    assert checked["noise drawn uniformly"] == "passed"


def test_blocks_grow_over_training_are_evaluated_in_the_last_size_and_resume_bit_for_bit(hf, tiny, strike, tmp_path):
    grow = (*BLOCKS[:2], "--diffusion-block-size-schedule", "1,4,8", "--max-steps", "9", "--save-steps", "5")
    grow = ("train", *tiny, *grow, "--logging-steps", "1")
    result = hf(*grow, "--output-dir", "run")
    assert result.code == 0, result.err
    run = load_run("run")
    assert run.config["diffusion_block_size"] == 8
    assert load_target("run").model.config.diffusion_block_size == 8
    assert run.bound == "nelbo"
    assert [step.masking_rate == 1 for step in run.steps] == [True] * 3 + [False] * 6
    assert not run.minimises_no_bound  # in each part the bound of its own blocks
    said = [event.message for event in run.events if event.event == "curriculum"]
    assert said == ["diffusion blocks of 1 -> 4 tokens", "diffusion blocks of 4 -> 8 tokens"]
    shutil.copytree("run", "cut")
    shutil.rmtree("cut/checkpoint-9")
    strike(tmp_path / "cut", "completed")
    result = hf(*grow, "--output-dir", "cut", "--resume")
    assert result.code == 0, result.err
    ours, theirs = (tmp_path / one / "checkpoint-9" / "model.safetensors" for one in ("cut", "run"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_its_memory_is_told_before_anyone_waits(hf):
    of_blocks, of_mdlm = (
        json.loads(hf("doctor", "--recipe", recipe, "--json").out)["activations"] for recipe in ("demo-bd3lm", "demo")
    )
    assert 1.4 * of_mdlm < of_blocks < 2.2 * of_mdlm


def test_weights_are_gone_on_from_with_their_blocks_or_with_others(hf, tiny, trained):
    assert hf("train", *tiny, "--max-steps", "2", "--output-dir", "plain").code == 0
    for number, (source, given, size) in enumerate(
        [(trained, (), 8), (trained, ("--diffusion-block-size", "4"), 4), ("plain", ("--diffusion-block-size", "1"), 1)]
    ):
        folder = f"more-{number}"
        result = hf(*MORE, "--init-from", source, "--objective", "bd3lm", *given, "--output-dir", folder)
        assert result.code == 0, result.err
        assert load_run(folder).config["diffusion_block_size"] == size
        assert load_target(folder).model.config.diffusion_block_size == size
    for source, given, says in (
        (trained, (), "run/best has diffusion blocks of 8 tokens, but the objective is mdlm"),
        ("plain", ("--objective", "bd3lm"), "objective bd3lm needs diffusion_block_size"),
    ):
        result = hf(*MORE, "--init-from", source, *given, "--output-dir", "other")
        assert result.code == 2
        assert says in result.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--objective", "bd3lm"), "objective bd3lm needs diffusion_block_size, the tokens of a block"),
        (("--diffusion-block-size", "8"), "flag --diffusion-block-size is for the objective bd3lm"),
        ((*BLOCKS[:3], "64"), "diffusion_block_size must be at most block_size (33), got 64"),
        ((*BLOCKS[:3], "0"), "diffusion_block_size must be a positive integer, or none, got 0"),
        ((*BLOCKS, "--backbone", "dit"), "backbone 'dit' does not take block diffusion"),
        ((*BLOCKS, "--attn-implementation", "flex_attention"), "flex_attention"),
        ((*BLOCKS, "--loss-form", "time", "--count-law", "bell"), "count_law bell is of exact counts"),
        ((*BLOCKS[:2], "--diffusion-block-size-schedule", "1,8,4"), "must be rising numbers of tokens, such as 1,4,16"),
        ((*BLOCKS[:2], "--diffusion-block-size-schedule", "1,64"), "must be at most block_size (33), got 64"),
        ((*BLOCKS, "--diffusion-block-size-schedule", "1,4"), "must end with diffusion_block_size 8, but ends with 4"),
        (("--diffusion-block-size-schedule", "1,8"), "flag --diffusion-block-size-schedule is for the objective bd3lm"),
        ((*BLOCKS, "--router-aux-loss", "0.1"), "router_aux_loss is not there yet for the objective bd3lm"),
        (
            (*BLOCKS, "--sft", "--dataset", "chats.jsonl", "--sft-turns", "all"),
            "sft_turns all is not there yet for the objective bd3lm",
        ),
    ],
)
def test_what_is_not_there_is_a_sentence(hf, tiny, tmp_path, given, says):
    (tmp_path / "chats.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
    )
    result = hf("train", *tiny, *given, "--max-steps", "2", "--output-dir", "run")
    assert result.code == 2
    assert says in result.err
    assert not (tmp_path / "run").exists()


def test_conversations_have_blocks_that_begin_at_the_answer(hf, tiny, tmp_path):
    chats = (
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n} and {n + 1}"}]}
        for n in range(60)
    )
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    given = ("--sft", "--dataset", "chats.jsonl", "--block-size", "64", "--max-steps", "4", "--generate-interval", "2")
    result = hf("train", *tiny, *BLOCKS, *given, "--output-dir", "run")
    assert result.code == 0, result.err
    config = load_target("run").model.config
    assert (config.diffusion_block_size, config.diffusion_block_start) == (8, "answer")
    found = json.loads(hf("eval", "run", "--json").out)
    assert (found["bound"], found["eval_nll"] > 0) == ("nelbo", True)
    exact = json.loads(hf("eval", "run", "--exact", "--tokens-per-step", "3", "--json").out)["exact"]["confidence x3"]
    assert exact["scored_tokens"] == found["eval_scored_tokens"]
    assert exact["eval_exact_nll"] == pytest.approx(found["eval_nll"], rel=0.1)
    assert hf("generate", "run", "--prompt", "hello", "--max-new-tokens", "9").code == 0


def test_a_causal_model_is_block_diffusion_of_one_token_and_goes_on_with_more(hf, tiny):
    assert hf("train", *tiny, "--objective", "ar", "--max-steps", "6", "--output-dir", "ar").code == 0
    made = hf("convert", "ar", "--diffusion-block-size", "1", "--output-dir", "one")
    assert made.code == 0, made.err
    assert "train --objective bd3lm --init-from one" in made.out
    data = (*DATA, "--max-eval-blocks", "8", "--json")
    exact, causal = (json.loads(hf("eval", target, *data).out) for target in ("one", "ar"))
    assert (exact["bound"], exact["eval_nll_stderr"]) == ("exact", 0)
    # The causal model gives the mask token a probability, which is next to nothing after a few steps.
    assert exact["eval_nll"] == pytest.approx(causal["eval_nll"], abs=5e-3)
    written = [
        hf("generate", target, "--prompt", "ab", "--max-new-tokens", "9", "--temperature", "0").out
        for target in ("one", "ar")
    ]
    assert written[0] == written[1]
    result = hf(
        *MORE, "--objective", "bd3lm", "--init-from", "one", "--diffusion-block-size", "4", "--output-dir", "four"
    )
    assert result.code == 0, result.err
    config = load_target("four").model.config
    assert (config.diffusion_block_size, config.shift_logits) == (4, True)


def test_other_numbers_of_such_a_run_are_refused(hf, trained):
    for command, says in (
        (
            ("eval", trained, "--exact", "--block-length", "4"),
            "--block-length is 4, but run/best has diffusion blocks of 8 tokens; leave it out",
        ),
        (
            ("generate", trained, "--block-length", "4"),
            "block_length is 4, but the model has diffusion blocks of 8 tokens",
        ),
    ):
        result = hf(*command)
        assert result.code == 2, (command, result.err)
        assert says in result.err


def test_the_mask_of_a_model_is_never_filled_from_masks(trained):
    model = load_target(trained).model
    with pytest.raises(ValueError, match="has masks in blocks 0 to 1 of 8 tokens"):
        model(torch.full((1, 12), model.config.mask_token_id))
