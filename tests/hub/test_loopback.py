"""The loopback Hub speaks what huggingface_hub speaks: the tests of pushing and pulling stand on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from loopback import LoopbackHub

CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

folder, api = Path(sys.argv[1]), HfApi()
api.create_repo("o/n", private=True)
api.create_repo("o/n", exist_ok=True)
first = api.upload_folder(repo_id="o/n", folder_path=folder)
again = api.upload_folder(repo_id="o/n", folder_path=folder)
assert first.oid == again.oid, "an unchanged folder is no new commit"
api.create_branch("o/n", branch="try/1")
api.upload_file(path_or_fileobj=b"new", path_in_repo="sub/new.txt", repo_id="o/n", revision="try/1")
api.delete_folder("deep", repo_id="o/n", revision="try/1")
def read(**where):
    root = Path(snapshot_download("o/n", **where))
    return sorted((str(path.relative_to(root)), path.read_text()) for path in root.rglob("*") if path.is_file())
says = {"main": read(), "branch": read(revision="try/1"), "commit": read(revision=first.oid)}
says["files"] = api.list_repo_files("o/n")
says["top"] = sorted(entry.path for entry in api.list_repo_tree("o/n"))
says["branches"] = sorted(b.name for b in api.list_repo_refs("o/n").branches)
says["sizes"] = {i.path: i.size for i in api.get_paths_info("o/n", ["a.txt", "w.safetensors"])}
for name, error, call in [
    ("entry", EntryNotFoundError, lambda: hf_hub_download("o/n", "none.txt")),
    ("revision", RevisionNotFoundError, lambda: hf_hub_download("o/n", "a.txt", revision="none")),
    ("repo", RepositoryNotFoundError, lambda: HfApi(token=False).model_info("o/n")),
    ("stranger", HfHubHTTPError, lambda: HfApi(token="hf_wrong").create_repo("o/m")),
]:
    try:
        call()
        says[name] = "nothing"
    except error:
        says[name] = "refused"
print(json.dumps(says))
"""


def client(hub: LoopbackHub, code: str, *args: str | Path, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", code, *map(str, args)]
    environment = hub.environment(home, **more)
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)


def test_what_is_uploaded_is_what_is_downloaded(loopback_hub, tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_text("text")
    (folder / "w.safetensors").write_text("weights")
    (folder / "deep" / "er" / "b.json").write_text("{}")
    done = client(loopback_hub, CLIENT, folder, home=tmp_path)
    assert done.returncode == 0, done.stderr
    says = json.loads(done.stdout.splitlines()[-1])
    everything = [["a.txt", "text"], ["deep/er/b.json", "{}"], ["w.safetensors", "weights"]]
    assert says["main"] == says["commit"] == everything
    assert says["branch"] == [["a.txt", "text"], ["sub/new.txt", "new"], ["w.safetensors", "weights"]]
    assert says["files"] == ["a.txt", "deep/er/b.json", "w.safetensors"]
    assert says["top"] == ["a.txt", "deep", "w.safetensors"]
    assert says["branches"] == ["main", "try/1"]
    assert says["sizes"] == {"a.txt": 4, "w.safetensors": 7}
    assert {says[name] for name in ("entry", "revision", "repo", "stranger")} == {"refused"}
    assert loopback_hub.files("o/n") == {path: text.encode() for path, text in everything}
    assert loopback_hub.repos["o/n"].private


FAULTY = """
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
import httpx2
try:
    HfApi().create_repo("o/n")
except HfHubHTTPError as error:
    print(error.response.status_code)
HfApi().create_repo("o/n")
try:
    HfApi().model_info("o/n")
except httpx2.RemoteProtocolError:
    print("dropped")
print(HfApi().model_info("o/n").sha)
"""


def test_a_fault_hits_as_often_as_it_was_asked_to_and_no_more(loopback_hub, tmp_path):
    loopback_hub.fail("POST /api/repos/create", 403)
    loopback_hub.fail("GET /api/models/o/n", None)
    done = client(loopback_hub, FAULTY, home=tmp_path)
    assert done.stdout.split() == ["403", "dropped", loopback_hub.repos["o/n"].branches["main"][-1].sha], done.stderr
