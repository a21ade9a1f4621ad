"""Files, folders and globs, mixed: every run once, a sentence for each path that has none, and the others still load."""

from __future__ import annotations

import json
import shutil

import pytest

from hf_difflm.errors import UserError
from hf_difflm.runs import load_run, load_runs, recover
from hf_difflm.runs.derived.rebuild import write_derived


def names(found):
    runs, problems = found
    return [run.name for run in runs], problems


def test_files_folders_and_globs_may_be_mixed_and_each_run_is_loaded_once(write_run, tmp_path):
    one, two, three = write_run("one"), write_run("two"), write_run("three")
    document, _ = write_derived(three.path)
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    shutil.move(document, elsewhere)
    paths = [one.path, one.path.parent, str(tmp_path / "t*"), elsewhere / "three.json"]
    assert names(load_runs(paths)) == (["one", "three", "two", "three"], [])
    assert names(load_runs([str(tmp_path / "*" / "journal.jsonl")])) == (["one", "three", "two"], [])
    assert names(load_runs([two.path.parent, two.path])) == (["two"], [])


def test_a_folder_of_runs_is_searched_but_not_where_weights_lie(write_run, tmp_path):
    write_run("a"), write_run("b")
    shutil.copytree(tmp_path / "a", tmp_path / "deep" / "er" / "c")
    for weights in ("checkpoint-5", "best", ".hidden"):
        shutil.copytree(tmp_path / "a", tmp_path / "b" / weights)
        shutil.copytree(tmp_path / "a", tmp_path / "deep" / weights)
    assert names(load_runs([tmp_path])) == (["a", "b", "a"], [])


def test_a_folder_of_metrics_files_gives_each_of_them(tmp_path):
    for name in ("mdlm", "ar"):
        losses = {"model_type": name.upper(), "experiment_name": name, "steps": [1, 2], "step_losses": [2.0, 1.0]}
        (tmp_path / f"{name}_metrics.json").write_text(json.dumps(losses))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "notes.json").write_text('["hello"]')
    assert names(load_runs([tmp_path])) == (["ar", "mdlm"], [])
    with pytest.raises(UserError, match=r"holds 2 runs \(ar_metrics.json, mdlm_metrics.json\)"):
        load_run(tmp_path)


def test_the_two_files_that_are_derived_from_one_journal_are_one_run(write_run, tmp_path):
    for path in write_derived(write_run("demo").path):
        shutil.move(path, tmp_path)
    assert load_run(tmp_path / "demo_metrics.json").name == "demo"
    shutil.rmtree(tmp_path / "demo")
    runs, problems = load_runs([tmp_path])
    assert [run.path.name for run in runs] == ["demo.json"]
    assert problems == []
    assert load_run(tmp_path).path.name == "demo.json"


def test_what_is_broken_is_said_and_the_other_runs_still_load(write_run, tmp_path):
    write_run("good")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.jsonl").write_bytes(b"\x00\x01")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"name": "other"}')
    (tmp_path / "broken.json").write_text("{{{")
    paths = ["good", "torn", "empty", "other.json", "broken.json", "nowhere", "no*thing", "."]
    runs, problems = load_runs([tmp_path / path for path in paths])
    assert [run.name for run in runs] == ["good"]
    words = [
        "is not the journal of a run",
        "empty' holds no run (found an empty folder)",
        "is not the log of a run (found the keys name)",
        "is not valid JSON",
        "there is no run at",
        "there is no run at",
        "is not the journal of a run",  # the torn one again, and broken.json, in the folder of all
        "is not valid JSON",
    ]
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, sorted_like(words, problems), strict=True))
    assert not any("\n" in problem for problem in problems)


def sorted_like(words, problems):
    """The problems in the order of the words; inside a folder their order is that of the file system."""
    rest = list(problems)
    return [rest.pop(next(i for i, problem in enumerate(rest) if word in problem)) for word in words]


def test_a_folder_of_broken_logs_alone_says_so_once(tmp_path):
    (tmp_path / "broken.json").write_text("{{{")
    runs, problems = load_runs([tmp_path])
    assert (runs, len(problems)) == ([], 1)


def test_two_runs_with_one_name_are_two_runs(write_run, tmp_path):
    shutil.copytree(write_run("same").path.parent, tmp_path / "copy")
    assert names(load_runs([tmp_path])) == (["same", "same"], [])


def test_what_is_derived_is_recovered_from_folder_journal_or_link(write_run, tmp_path):
    run = write_run("lost", experiment_name="exp")
    expected = [run.path.parent / "lost.json", run.path.parent / "exp_metrics.json"]
    for path in (run.path, run.path.parent, str(run.path)):
        assert recover(path) == expected
        assert json.loads(expected[0].read_text())["status"] == "completed"
        assert json.loads(expected[1].read_text())["experiment_name"] == "exp"
        for derived in expected:
            derived.unlink()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "journal.jsonl").symlink_to(run.path)
    assert [path.resolve() for path in recover(tmp_path / "link")] == [path.resolve() for path in expected]


def test_without_a_journal_nothing_can_be_recovered(tmp_path, write_run):
    document = recover(write_run("a").path)[0]
    for path in (tmp_path, tmp_path / "nowhere", document):
        with pytest.raises(UserError, match="there is no journal at"):
            recover(path)
