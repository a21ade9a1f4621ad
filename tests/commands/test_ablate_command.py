"""``ablate``: from a grid to a page, from finished runs only."""

from __future__ import annotations

import gzip
import json
import re

import pytest
import yaml

from hf_difflm.runs import load_run

GRID = {
    "recipe": "markov",
    "settings": {
        **{
            "max_steps": 4,
            "eval_steps": 2,
            "save_steps": 4,
            "logging_steps": 2,
            "eval_replicates": 2,
            "viz_interval": 0,
        },
        **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "use_cpu": True},
        **{"max_train_blocks": 64, "max_eval_blocks": 8, "global_batch_size": 4, "per_device_train_batch_size": 4},
        "generation_max_new_tokens": 8,
    },
    "seeds": [1, 2],
    "reference": "ar",
    "samples": 2,
    "variants": {
        "mdlm": {"max_new_tokens": 16, "max_denoising_steps": 8},
        "ar": {"objective": "ar", "max_new_tokens": 16},
    },
    "factors": {"noise_sampling": ["iid"], "sampler": ["ddpm"]},
}


@pytest.fixture
def grid(tmp_path, cache_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID, sort_keys=False))
    return path


def test_every_number_of_the_page_is_that_of_finished_runs(hf, grid, snapshot, tmp_path):
    first = hf("ablate", grid, "--output-dir", "out", "--json")
    assert first.code == 0, first.err
    rows = {row["variant"]: row for row in json.loads(first.out)}
    assert list(rows) == ["mdlm", "ar", "mdlm, noise_sampling=iid", "mdlm, sampler=ddpm"]
    for name, folder in (("mdlm", "mdlm"), ("ar", "ar"), ("mdlm, noise_sampling=iid", "mdlm-noise_sampling=iid")):
        runs = [load_run(tmp_path / "out" / f"{folder}-seed{seed}") for seed in (1, 2)]
        assert [run.config["seed"] for run in runs] == [1, 2]
        mean = sum(run.best_evaluation.nll for run in runs) / 2
        assert rows[name]["eval_nll"]["mean"] == pytest.approx(mean, rel=1e-12)
        assert set(rows[name]["generation"]) >= {"unigram_entropy", "reference_perplexity", "forwards", "seconds"}
    assert rows["mdlm, sampler=ddpm"]["verdict"] == "same weights"
    assert rows["mdlm, sampler=ddpm"]["generation"]["forwards"]["mean"] == 8.0
    assert rows["mdlm"]["generation"]["forwards"]["mean"] <= 8.0
    assert not (tmp_path / "out" / "mdlm-sampler=ddpm-seed1").exists()  # its weights are those of mdlm
    page = (tmp_path / "out" / "ablation.md").read_text()
    assert f"{rows['mdlm']['eval_nll']['mean']:.4f} ± " in page
    assert str(tmp_path) not in page

    # Once more: nothing is trained, nothing is drawn, the same page.
    before = {path.name: snapshot(path) for path in (tmp_path / "out").iterdir() if path.is_dir()}
    again = hf("ablate", grid, "--output-dir", "out", "--json")
    assert again.code == 0
    assert again.err.count("reusing the finished run") == 6
    assert json.loads(again.out) == list(rows.values())
    assert {path.name: snapshot(path) for path in (tmp_path / "out").iterdir() if path.is_dir()} == before


def test_a_report_of_what_is_there_has_no_number_for_what_is_not(hf, grid, strike, tmp_path):
    content = {
        **GRID,
        "samples": 0,
        "reference": None,
        "variants": {"mdlm": {}},
        "factors": {"noise_sampling": ["iid"]},
    }
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    nothing = hf("ablate", grid, "--output-dir", "out", "--report-only")
    assert nothing.code == 2
    assert "holds no finished run of this ablation" in nothing.err
    assert hf("ablate", grid, "--output-dir", "out").code == 0
    strike("out/mdlm-noise_sampling=iid-seed2", "completed")
    result = hf("ablate", grid, "--output-dir", "out", "--report-only")
    assert result.code == 0, result.err
    page = (tmp_path / "out" / "ablation.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| mdlm, noise_sampling=iid"))
    assert "not finished (1 of 2 runs)" in row
    assert not re.search(r"\d\.\d{4}", row)


def test_a_run_of_other_settings_counts_as_missing_and_is_never_trained_over(hf, grid, tmp_path):
    content = {**GRID, "samples": 0, "reference": None, "seeds": [1], "variants": {"mdlm": {}}, "factors": {}}
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    assert hf("ablate", grid, "--output-dir", "out").code == 0
    other = hf("ablate", grid, "--output-dir", "out", "--learning-rate", "1e-5", "--report-only")
    assert other.code == 2
    assert "no finished run" in other.err
    refused = hf("ablate", grid, "--output-dir", "out", "--learning-rate", "1e-5")
    assert refused.code == 2
    assert "holds a run with learning_rate" in refused.err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["nosuch"], "ablation 'nosuch' is unknown"),
        (["noise", "--seeds", "1,x"], "--seeds must be different whole numbers"),
        (["noise", "--report-only", "--overwrite"], "exclude each other"),
        (["noise", "--objective", "ar"], "flag --objective has no use here"),
        (["noise", "--seed", "3"], "use --seeds"),
    ],
)
def test_bad_input_is_one_sentence(hf, tmp_path, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    result = hf("ablate", *flags)
    assert result.code == 2
    assert sentence in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


def test_a_sampler_that_does_not_exist_is_told_before_anything_is_trained(hf, grid, tmp_path):
    grid.write_text(yaml.safe_dump({**GRID, "factors": {"sampler": ["nosuch"]}}, sort_keys=False))
    result = hf("ablate", grid, "--output-dir", "out")
    assert result.code == 2
    assert "in variant 'mdlm, sampler=nosuch'" in result.err
    assert not (tmp_path / "out").exists()


ROUNDS = {
    "recipe": "markov",
    "settings": {
        **{key: value for key, value in GRID["settings"].items() if key != "generation_max_new_tokens"},
        "save_strategy": "no",
        "eval_steps": 1,
    },
    "samples": 0,
    "baseline": "uniform",
    "tune": {"learning_rate": [1e-4, 1e-2]},
    "variants": {"uniform": {}, "bell": {"count_law": "bell"}, "flat": {"loss_weight": "flat"}},
    "rounds": [
        {"name": "rates", "tune": True, "seeds": [1]},
        {"name": "seeds", "seeds": [1, 2]},
        {"name": "larger", "best": 1, "seeds": [1], "settings": {"hidden_size": 64}},
    ],
}


def test_rounds_choose_from_finished_runs_and_the_page_is_made_anew_from_the_kept_logs(hf, grid, tmp_path):
    grid.write_text(yaml.safe_dump(ROUNDS, sort_keys=False))
    first = hf("ablate", grid, "--output-dir", "out", "--logs", "logs", "--json")
    assert first.code == 0, first.err
    rates, seeds, larger = json.loads(first.out)
    tried = {row["variant"]: row["eval_nll"]["mean"] for row in rates}
    assert list(tried) == [f"{name}, learning_rate={rate}" for name in ROUNDS["variants"] for rate in (0.0001, 0.01)]
    for row in seeds:
        assert row["finished"] == [1, 2]
        best = min((0.0001, 0.01), key=lambda rate: tried[f"{row['variant']}, learning_rate={rate}"])
        for path in row["runs"].values():
            assert load_run(path).config["learning_rate"] == best
    others = {row["variant"]: row["eval_nll"]["mean"] for row in seeds if row["variant"] != "uniform"}
    assert {row["variant"] for row in larger} == {"uniform", min(others, key=others.__getitem__)}
    assert all(load_run(path).config["hidden_size"] == 64 for row in larger for path in row["runs"].values())
    page = (tmp_path / "out" / "ablation.md").read_text()
    assert "## seeds: each variant as it was best in the round before, 2 seeds" in page
    assert "## larger: the 1 best of the round before and the baseline, 1 seed, hidden\\_size = 64" in page or (
        "## larger: the 1 best of the round before and the baseline, 1 seed, hidden_size = 64" in page
    )
    # On another machine there are the logs alone.
    again = hf("ablate", grid, "--output-dir", "elsewhere", "--logs", "logs", "--report-only", "--json")
    assert again.code == 0, again.err
    for before, now in zip(json.loads(first.out), json.loads(again.out), strict=True):
        for row in (*before, *now):
            del row["runs"]
        assert before == now
    assert not list((tmp_path / "logs").rglob("*.safetensors"))


def test_rounds_of_which_one_is_not_finished_have_no_next_one(hf, grid, strike, tmp_path):
    grid.write_text(yaml.safe_dump({**ROUNDS, "variants": {"uniform": {}, "bell": {"count_law": "bell"}}}))
    assert hf("ablate", grid, "--output-dir", "out").code == 0
    strike("out/rates/bell-learning_rate=0.01-seed1", "completed")
    told = hf("ablate", grid, "--output-dir", "out", "--report-only", "--json")
    assert told.code == 0, told.err
    (rates,) = json.loads(told.out)
    verdicts = {row["variant"]: row["verdict"] for row in rates}
    assert verdicts["bell, learning_rate=0.01"] == "not finished (0 of 1 runs)"


def test_seeds_of_rounds_are_those_of_the_file(hf, grid):
    grid.write_text(yaml.safe_dump(ROUNDS))
    refused = hf("ablate", grid, "--seeds", "1,2")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--seeds has no use here" in refused.err


def test_kept_logs_are_those_of_the_runs_that_are_there_after_an_overwrite_too(hf, grid, tmp_path):
    whole = {**ROUNDS, "variants": {"uniform": {}}}
    grid.write_text(yaml.safe_dump({key: value for key, value in whole.items() if key not in ("rounds", "tune")}))
    line = ("ablate", grid, "--output-dir", "out", "--logs", "logs", "--seeds", "1")
    assert hf(*line).code == 0
    kept = tmp_path / "logs" / "uniform-seed1" / "journal.jsonl.gz"
    first = kept.read_bytes()
    assert hf(*line).code == 0
    assert kept.read_bytes() == first
    assert hf(*line, "--overwrite", "--learning-rate", "0.02").code == 0
    assert kept.read_bytes() != first
    (tmp_path / "text.txt").write_text("a line of words\n" * 4000)
    given = ("--dataset", str(tmp_path / "text.txt"), "--seeds", "2")
    assert hf(*line[:-2], *given).code == 0
    for seed in (1, 2):
        ours = (tmp_path / "out" / f"uniform-seed{seed}" / "journal.jsonl").read_text().splitlines()
        found = gzip.decompress((tmp_path / "logs" / f"uniform-seed{seed}" / kept.name).read_bytes()).decode()
        assert found.splitlines()[1:] == ours[1:]
        assert str(tmp_path) not in found.splitlines()[0]
    assert '"dataset":"text.txt"' in found
