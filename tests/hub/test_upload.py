"""The upload: what arrives, and each way in which it can fail as one sentence, with the folder as it was."""

from __future__ import annotations

import json
import time

import pytest
from loopback import LoopbackHub
from made_models import ROOT, contents, start_client

# One process pushes again and again: the faults are set beforehand, and each push takes one.
CLIENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from hf_difflm.errors import UserError
from hf_difflm.hub.upload import upload
said = []
for times in range(int(sys.argv[3])):
    try:
        said.append(upload(Path(sys.argv[2]), "o/n"))
    except UserError as error:
        said.append(str(error))
print(json.dumps(said))
"""
# In the order in which a push comes to them.
FAULTS = [
    ("POST /api/repos/create", 401, "the Hub does not accept your token (401)"),
    ("POST /api/repos/create", 403, "your token may not write there (403)"),
    (
        "POST /api/repos/create",
        409,
        "that huggingface_hub cannot read",
    ),  # a conflict without the address it should come with
    ("POST /api/repos/create", 429, "too many requests (429)"),
    ("POST /api/repos/create", 500, "the Hub failed (500)"),
    ("POST /api/repos/create", None, "broke off"),
    ("POST /api/validate-yaml", 400, "refuses the head of the model card"),
    ("POST /api/models/o/n/preupload", 404, "the Hub knows no such place that your token may see (404)"),
    ("POST /o/n.git/info/lfs", 403, "your token may not write there (403)"),
    ("PUT /lfs/", 400, "refused it (HTTP 400)"),
    ("POST /api/models/o/n/commit", 401, "the Hub does not accept your token (401)"),
    ("POST /api/models/o/n/commit", 403, "your token may not write there (403)"),
    ("POST /api/models/o/n/commit", 404, "the Hub knows no such place that your token may see (404)"),
    ("POST /api/models/o/n/commit", 409, "somebody else wrote there at the same time (409)"),
    ("POST /api/models/o/n/commit", 413, "too large for the Hub (413)"),
    ("POST /api/models/o/n/commit", 429, "too many requests (429)"),
    ("POST /api/models/o/n/commit", 500, "the Hub failed (500)"),
    ("POST /api/models/o/n/commit", None, "broke off"),
]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "folder"
    (place / "deep").mkdir(parents=True)
    (place / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# n\n")
    (place / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (place / "deep" / "file.txt").write_text("text")
    return place


def push_times(hub: LoopbackHub, folder, home, times, **more):
    out, err = start_client(hub, "-c", CLIENT, ROOT, folder, times, home=home, **more).communicate(timeout=300)
    assert out, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_each_failure_is_one_sentence_the_folder_stays_and_the_next_push_completes(loopback_hub, folder, tmp_path):
    before = contents(folder)
    for pattern, status, _ in FAULTS:
        loopback_hub.fail(pattern, status)
    said = push_times(loopback_hub, folder, tmp_path, len(FAULTS) + 2)
    for sentence, (_, _, expected) in zip(said, FAULTS, strict=False):
        assert expected in sentence, said
        assert "o/n" in sentence
        assert "\n" not in sentence
    assert said[-2] == said[-1] == f"{loopback_hub.url}/o/n/commit/{loopback_hub.repos['o/n'].branches['main'][-1].sha}"
    assert contents(folder) == before == loopback_hub.files("o/n")
    assert len(loopback_hub.repos["o/n"].branches["main"]) == 2, "one commit beside the initial one"


@pytest.mark.slow
def test_without_a_network_and_offline_and_without_a_token(loopback_hub, folder, tmp_path):
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # the discard port, where nobody listens
    (said,) = push_times(loopback_hub, folder, tmp_path, 1, **closed)
    assert "the upload to o/n broke off (" in said
    (said,) = push_times(loopback_hub, folder, tmp_path, 1, HF_HUB_OFFLINE="1")
    assert "while HF_HUB_OFFLINE is set" in said
    (said,) = push_times(loopback_hub, folder, tmp_path, 1, HF_TOKEN="")
    assert "log in (`hf auth login`) or set HF_TOKEN" in said
    assert loopback_hub.repos == {}


@pytest.mark.slow
def test_a_dropped_upload_is_tried_again_by_itself(loopback_hub, folder, tmp_path):
    loopback_hub.fail("PUT /lfs/", None)
    (said,) = push_times(loopback_hub, folder, tmp_path, 1)
    assert "/commit/" in said
    assert [line.split("/")[1] for line in loopback_hub.requests].count("lfs") == 2


@pytest.mark.slow
def test_an_upload_that_is_killed_commits_nothing_and_a_second_push_completes(loopback_hub, folder, tmp_path):
    loopback_hub.fail("PUT /lfs/", None, times=1000)
    client = start_client(loopback_hub, "-c", CLIENT, ROOT, folder, 1, home=tmp_path)
    deadline = time.monotonic() + 120
    while not any(line.startswith("PUT") for line in loopback_hub.requests):
        assert client.poll() is None, client.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.kill()
    client.communicate()
    assert loopback_hub.files("o/n") == {}
    loopback_hub.faults.clear()
    (said,) = push_times(loopback_hub, folder, tmp_path, 1)
    assert "/commit/" in said
    assert loopback_hub.files("o/n") == contents(folder)
