"""``compare --objectives``: block diffusion between autoregressive and masked diffusion, one table, one picture, one page."""

from __future__ import annotations

import pytest

from hf_difflm.runs import load_run
from hf_difflm.runs.comparing.exact_orders import exact_numbers
from hf_difflm.runs.journal.measurements import last_measurements


def test_each_side_has_its_run_and_all_stand_in_one_table_paired_with_the_first(hf, tiny, tmp_path):
    flags = [*tiny, "--max-steps", "6", "--output-dir", "sides"]
    result = hf("compare", *flags, "--objectives", "ar,bd3lm:4,bd3lm:16,mdlm")
    assert result.code == 0, result.err
    runs = {name: load_run(f"sides/{name}") for name in ("ar", "bd3lm-4", "bd3lm-16", "mdlm")}
    assert [run.config.get("diffusion_block_size") for run in runs.values()] == [None, 4, 16, None]
    assert {run.header.data["fingerprint"] for run in runs.values()} == {runs["ar"].header.data["fingerprint"]}
    assert {run.tokens_seen for run in runs.values()} == {runs["ar"].tokens_seen}
    page = (tmp_path / "sides/comparison.md").read_text()
    for name, run in runs.items():
        assert f"{run.best_evaluation.nll:.4f}" in result.out
        assert f"{run.best_evaluation.nll:.4f}" in page
        if name != "ar":
            assert f"markov-{name} - markov-ar: " in result.out
    assert "paired over" in result.out
    assert "--- bd3lm:4, step 6" in result.out
    assert "(comparison-block-size.png)" in page
    assert (tmp_path / "sides/comparison-block-size.png").read_bytes().startswith(b"\x89PNG")
    assert "tokens/s written" in result.out
    assert "tokens/s written" in page
    speeds = {name: last_measurements(run)["sampling"].metrics["sampling_tokens_per_sec"] for name, run in runs.items()}
    assert all(speed > 0 for speed in speeds.values())
    again = hf("compare", *flags, "--objectives", "mdlm,bd3lm:4")
    assert again.code == 0, again.err
    assert last_measurements(load_run("sides/mdlm"))["sampling"].metrics["sampling_tokens_per_sec"] == speeds["mdlm"]
    assert again.out.count("reusing the finished run") + again.err.count("reusing the finished run") == 2


def test_exact_numbers_stand_beside_each_size_of_blocks(hf, tiny):
    flags = [*tiny, "--max-steps", "6", "--output-dir", "sides", "--objectives", "ar,bd3lm:1,bd3lm:4"]
    result = hf("compare", *flags, "--exact", "--exact-order", "left_to_right,margin", "--exact-blocks", "8")
    assert result.code == 0, result.err
    one, four = (exact_numbers(load_run(f"sides/bd3lm-{size}")) for size in (1, 4))
    assert list(one) == list(four) == ["left_to_right", "margin"]
    for found in one.values():  # every order of one token is the same, and the number of all evaluations
        assert found.eval_exact_nll == pytest.approx(load_run("sides/bd3lm-1").best_evaluation.nll, abs=1e-6)
        assert (found.block_length, found.nelbo_stderr, found.forwards) == (1, 0, found.scored_tokens)
    assert four["margin"].eval_exact_nll != pytest.approx(four["left_to_right"].eval_exact_nll, abs=1e-6)
    assert (four["margin"].block_length, four["margin"].twin) == (4, load_run("sides/ar").best_evaluation.nll)
    table = result.out.split("Exact likelihoods:")[1]
    assert "nelbo" not in next(line for line in table.splitlines() if "left to right, its own" in line)
    assert f"{four['margin'].eval_exact_nll:.4f}" in table


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--objectives", "ar,bd3lm"], "bd3lm:SIZE"),
        (["--objectives", "ar,bd3lm:0"], "bd3lm:SIZE"),
        (["--objectives", "ar,mdlm:4"], "got 'mdlm:4'"),
        (["--objectives", "ar,ar"], "names ar twice"),
        (["--objectives", "mdlm"], "is one side"),
        (["--objectives", "ar,bd3lm:4", "--diffusion-block-size", "8"], "give each size its run"),
        (["--objective", "ar"], "--objectives"),
    ],
)
def test_what_cannot_be_compared_is_refused(hf, tiny, flags, words):
    result = hf("compare", *tiny, "--output-dir", "sides", *flags)
    assert result.code == 2
    assert words in result.err
