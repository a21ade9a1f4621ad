"""A Hub on the loopback interface: repositories in memory, the endpoints that huggingface_hub uses, faults on demand.

huggingface_hub reads where the Hub is at its first import, so its clients are processes of their own, started with
:meth:`LoopbackHub.environment`.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from loopback_repos import Commit, Repo
from loopback_requests import HubRequestHandler


@dataclass
class Fault:
    """What becomes of the next ``times`` requests whose "METHOD /path" matches."""

    pattern: re.Pattern[str]
    status: int | None
    times: int


class LoopbackHub(ThreadingHTTPServer):
    """The server; ``repos``, ``objects`` (LFS, by SHA-256) and ``requests`` ("METHOD /path") are there for tests to read.

    Args:
        token: what a client must send to write anything, or to see a private repository.
    """

    daemon_threads = True

    def __init__(self, token: str = "hf_" + "loopback" * 4) -> None:
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """Environment of a client process: this Hub, a cache of its own in ``home``, no other token, no PYTHONPATH."""
        dropped = ("HF_", "HUGGING", "PYTHONPATH", "TRANSFORMERS_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        quiet = {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "HF_TOKEN": self.token if token is None else token,
        }
        return clean | own | quiet | more

    def fail(self, pattern: str, status: int | None = None, times: int = 1) -> None:
        """Answer the next ``times`` requests whose "METHOD /path" matches with ``status``; None drops the connection."""
        self.faults.append(Fault(re.compile(pattern), status, times))

    def put(self, repo_id: str, files: dict[str, bytes | str], revision: str = "main", private: bool = False) -> str:
        """Make a repository, or commit to one; what ``files`` names need not be a path any client would send."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(private))
            branch = repo.branches.setdefault(revision, [Commit("initial commit", {})])
            content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
            branch.append(Commit("put", branch[-1].files | content, branch[-1].sha))
            return branch[-1].sha

    def put_folder(self, repo_id: str, folder: Path, revision: str = "main", private: bool = False) -> str:
        """Commit every file of a local folder."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.put(repo_id, files, revision, private)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository's branch by path."""
        commit = self.repos[repo_id].at(revision)
        return dict(commit.files) if commit else {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no error of the server's."""


def start_loopback_hub() -> LoopbackHub:
    """A server that answers in a thread of its own until ``shutdown``."""
    server = LoopbackHub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
