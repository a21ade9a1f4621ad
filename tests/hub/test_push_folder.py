"""The folder that goes up: all that belongs to the model, nothing else of the run, nothing of this machine."""

from __future__ import annotations

import pytest
from made_models import contents, header_of, make_run, tiny, write_checkpoint

from hf_difflm.errors import UserError
from hf_difflm.hub.folder import write_folder
from hf_difflm.hub.included import copy_included
from hf_difflm.hub.log_files import portable_journal
from hf_difflm.hub.remote_code import code_files
from hf_difflm.runs import load_run
from hf_difflm.runs.dashboard.files import write_dashboard

LOG = {"journal.jsonl", "text_samples.json", "dashboard.png", "curves.png"}
MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    """A finished run with checkpoints, a dashboard and files of the user's; the tests only read it."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "mdlm", tiny(1), tokenizer, ema_decay=0.9)
    write_checkpoint(folder, 20, tiny(2), tokenizer, average=tiny(1))
    write_dashboard(load_run(folder), folder / "dashboard")
    (folder / "train.log").write_text("lines\n")
    (folder / ".env").write_text("x=1\n")
    (folder / "notes").mkdir()
    (folder / "notes" / "one.md").write_text("note\n")
    (folder / "outside").symlink_to("/etc")
    return folder


@pytest.fixture(scope="module")
def pushed(run, tmp_path_factory):
    before = contents(run)
    folder = write_folder(
        run, tmp_path_factory.mktemp("pushed") / "out", repo_id="o/n", include=["train.log", "notes/*"]
    )
    assert contents(run) == before, "the run is only read"
    return folder


def test_a_run_is_its_best_weights_its_tokenizer_its_code_its_evidence_and_what_was_asked_for(pushed):
    code = {path.name for path in code_files()}
    assert set(pushed.files) == MODEL | LOG | code | {"README.md", "train.log", "notes/one.md"}
    assert pushed.files == {name: len(data) for name, data in sorted(contents(pushed.path).items())}


def test_the_log_beside_the_weights_is_the_run_s_own(run, pushed):
    ours, theirs = load_run(run), load_run(pushed.path)
    assert theirs.best_evaluation == ours.best_evaluation
    assert theirs.column("loss").tolist() == ours.column("loss").tolist()
    assert (pushed.path / "dashboard.png").read_bytes() == (run / "dashboard" / "training_latest.png").read_bytes()
    assert (pushed.path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_run_gives_the_same_bytes(run, pushed, tmp_path):
    again = write_folder(run, tmp_path / "again", repo_id="o/n", include=["train.log", "notes/*"])
    assert contents(again.path) == contents(pushed.path)


def test_no_path_of_this_machine_goes_up(run, pushed):
    place = str(run.parent)
    assert place in (run / "journal.jsonl").read_text()
    for name, data in contents(pushed.path).items():
        assert place.encode() not in data, name
    assert header_of(pushed.path)["metadata"]["command"] == "python cli.py train --output-dir mdlm"


def test_a_journal_that_is_being_written_is_taken_as_far_as_it_is_whole():
    sample = b'{"type":"sample","iter":1,"text":"see /data/x and /mnt/y"}'
    event = b'{"type":"event","event":"failed","message":"no room in /data/me/run"}'
    torn = b'{"type":"step","iter":2,"lo'
    expected = [sample, b'{"type":"event","event":"failed","message":"no room in run"}', b""]
    assert portable_journal(b"\n".join([sample, event, torn])).split(b"\n") == expected


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("nothing*", "matches no file"),
        ("../*", "leads out of"),
        ("/etc/*", "leads out of"),
        ("", "leads out of"),
        ("outside/*", "matches no file"),
        ("checkpoint-20/*.pt", r"optimizer\.pt, a pickle"),
        ("train.log", "in whose place a file of that name goes up"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(run, tmp_path, pattern, sentence):
    (tmp_path / "train.log").write_text("there already")
    with pytest.raises(UserError, match=sentence):
        copy_included(run, [pattern], tmp_path)
    assert contents(tmp_path) == {"train.log": b"there already"}


def test_hidden_files_match_only_a_pattern_with_a_dot(run, tmp_path):
    copy_included(run, ["*"], tmp_path)
    assert set(contents(tmp_path)) == {"journal.jsonl", "train.log"}
    copy_included(run, [".e*"], tmp_path)
    assert set(contents(tmp_path)) == {"journal.jsonl", "train.log", ".env"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", "{", r"config\.json cannot be read"),
        ("config.json", "{}", "names no model_type"),
        ("model.safetensors", None, "holds no weights of a whole model"),
        ("model.safetensors.index.json", "{", "is damaged"),
    ],
)
def test_a_broken_model_is_one_sentence_and_leaves_nothing(tmp_path, tokenizer, name, content, sentence):
    run = make_run(tmp_path / "run", tiny(1), tokenizer)
    if name.startswith("model"):
        (run / "best" / "model.safetensors").unlink()
    if content is not None:
        (run / "best" / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        write_folder(run, tmp_path / "out", repo_id="o/n")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        write_folder(run, tmp_path, repo_id="o/n")
    assert contents(tmp_path) == {"mine": b"mine"}


@pytest.mark.parametrize("repo_id", ["n", "a/b/c", "o/", "o/a b", "o/a--b", "../x", ""])
def test_a_name_that_is_none_is_refused_before_anything_is_built(tmp_path, repo_id):
    with pytest.raises(UserError, match="is no name of a repository; give OWNER/NAME"):
        write_folder("nowhere", tmp_path / "out", repo_id=repo_id)


@pytest.mark.parametrize("revision", ["a..b", "-x", "a b", "a/"])
def test_a_branch_that_is_none_is_refused(tmp_path, revision):
    with pytest.raises(UserError, match="is no name of a branch"):
        write_folder("nowhere", tmp_path / "out", repo_id="o/n", revision=revision)
