"""No token and no key goes up, whatever file it is in; the sentence says where it is and never what it is."""

from __future__ import annotations

import json
import string

import pytest
import torch
from made_models import contents, make_run, tiny
from safetensors.torch import save_file

from hf_difflm.errors import UserError
from hf_difflm.hub.folder import write_folder
from hf_difflm.hub.remote_code import code_files
from hf_difflm.hub.secrets_scan import find_secrets, refuse_secrets

LETTERS = (string.ascii_letters + string.digits) * 3
# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "a Hugging Face token": "hf" + "_" + LETTERS[:34],
    "a Weights & Biases key": "WANDB" + "_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "an AWS access key": "AKI" + "A" + "ABCDEFGH12345678",
    "an AWS secret key": "AWS_SECRET" + "_ACCESS_KEY = '" + LETTERS[:40] + "'",
    "a GitHub token": "gh" + "p_" + LETTERS[:36],
    "a GitLab token": "glpat" + "-" + LETTERS[:20],
    "an API key": "sk" + "-proj-" + "1" + LETTERS[:30],
    "a Slack token": "xox" + "b-" + "1234567890-abcdef",
    "a private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "a password in a URL": "https" + "://me:hunter2@example.org/x",
}
HARMLESS = [
    "max_new_tokens=32, mask_token_id=259, hf_difflm 0.1.0, hf_hub",
    "commit 0123456789abcdef0123456789abcdef01234567",  # as long as a W&B key, without the word
    "https://example.org/a:b@c is a path, and me@example.org an address",
    "sk-learn-is-spelled-scikit-learn",
    "-----BEGIN CERTIFICATE-----",
    '{"fingerprint": "' + "f" * 64 + '"}',
]


@pytest.mark.parametrize("kind", SECRETS)
def test_each_kind_of_secret_is_found_where_it_is_and_not_shown(tmp_path, kind):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "notes.txt").write_text(f"first\nx {SECRETS[kind]} y\n")
    found = list(find_secrets(tmp_path))
    assert [(one.file, one.line) for one in found] == [("deep/notes.txt", 2)] * len(found)
    assert kind in {one.kind for one in found}
    with pytest.raises(UserError, match=r"deep/notes\.txt, line 2, holds what looks like") as caught:
        refuse_secrets(tmp_path)
    assert SECRETS[kind] not in str(caught.value)


@pytest.mark.parametrize("kind", SECRETS)
def test_it_is_found_inside_json_too(tmp_path, kind):
    (tmp_path / "a.jsonl").write_text("{}\n" + json.dumps({"config": {"x": SECRETS[kind]}}) + "\n")
    assert kind in {one.kind for one in find_secrets(tmp_path)}


def test_ordinary_text_is_let_through(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(HARMLESS))
    assert list(find_secrets(tmp_path)) == []


def test_our_own_code_is_let_through(tmp_path):
    for path in code_files():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert list(find_secrets(tmp_path)) == []


def test_the_header_of_safetensors_is_read_and_the_weights_are_not(tmp_path):
    save_file({"w": torch.zeros(4)}, tmp_path / "a.safetensors", {"note": SECRETS["a GitHub token"]})
    assert [one.kind for one in find_secrets(tmp_path)] == ["a GitHub token"]
    weights = torch.frombuffer(bytearray(SECRETS["a GitHub token"].encode()), dtype=torch.uint8)
    save_file({"w": weights}, tmp_path / "a.safetensors")
    assert list(find_secrets(tmp_path)) == []


def test_the_value_of_a_secret_variable_is_known_by_itself(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("the word is open-sesame-please")
    assert list(find_secrets(tmp_path)) == []
    monkeypatch.setenv("MY_PASSWORD", "open-sesame-please")
    assert [one.line for one in find_secrets(tmp_path)] == [1]


def test_a_run_that_wrote_a_token_does_not_go_up(tmp_path, tokenizer):
    token = SECRETS["a Hugging Face token"]
    run = make_run(tmp_path / "run", tiny(1), tokenizer, samples=(f"my token is {token}",))
    before = contents(run)
    with pytest.raises(UserError, match=r"nothing was uploaded: README\.md, line") as caught:
        write_folder(run, tmp_path / "out", repo_id="o/n")
    assert token not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert contents(run) == before
