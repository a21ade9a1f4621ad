"""How the loopback Hub answers: one method an endpoint that huggingface_hub uses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from loopback_repos import Commit, Repo, file_oid, git_oid, is_lfs, tree_entry

if TYPE_CHECKING:
    from loopback import LoopbackHub

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>[a-z-]+)(?:/(?P<revision>[^/]+)(?P<path>/.*)?)?)?")
_REVISIONED = {"commit", "preupload", "tree", "paths-info", "revision"}


class HubRequestHandler(BaseHTTPRequestHandler):
    """Answers one client; what a fault is set for fails before anything happens."""

    server: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        line = f"{self.command} {path}"
        with self.server.lock:
            self.server.requests.append(line)
            fault = next((f for f in self.server.faults if f.times > 0 and f.pattern.search(line)), None)
            if fault is not None:
                fault.times -= 1
                if fault.status is not None:
                    return self._error(fault.status)
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            self._route(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _route(self, path: str, body: bytes) -> None:
        if path == "/api/whoami-v2":
            return self._json({"name": "tester", "type": "user", "orgs": []}) if self._known() else self._error(401)
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if (object_id := path.removeprefix("/lfs/")) != path:
            return self._store_object(object_id, body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._lfs_batch(json.loads(body))
        if (found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)) is not None:
            return self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        if (found := _API.fullmatch(path)) is not None:
            return self._repo_api(
                found["repo"], found["verb"], unquote(found["revision"] or "main"), found["path"], body
            )
        self._error(404)

    def _repo_api(self, repo_id: str, verb: str | None, revision: str, path: str | None, body: bytes) -> None:
        repo = self.server.repos.get(repo_id)
        if repo is None or (repo.private and not self._known()):
            return self._error(404 if self._known() else 401, "RepoNotFound")
        commit = repo.at(revision)
        if commit is None and verb in _REVISIONED:
            return self._error(404, "RevisionNotFound")
        if verb in ("commit", "preupload", "branch") and not self._known():
            return self._error(401)
        if verb == "branch":
            if revision in repo.branches:
                return self._error(409)
            repo.branches[revision] = list(repo.branches["main"])
            return self._json({})
        if verb == "refs":
            heads = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].sha}
                for name, commits in repo.branches.items()
            ]
            return self._json({"branches": heads, "tags": [], "converts": []})
        assert commit is not None or verb not in _REVISIONED
        if verb is None or verb == "revision":
            commit = commit or repo.branches["main"][-1]
            siblings = [{"rfilename": name} for name in sorted(commit.files)]
            info = {"id": repo_id, "sha": commit.sha, "private": repo.private, "siblings": siblings, "tags": []}
            return self._json(info | {"gated": False, "disabled": False, "downloads": 0, "likes": 0})
        if verb == "preupload":
            return self._preupload(commit.files, json.loads(body)["files"])
        if verb == "commit":
            return self._commit(repo, repo_id, revision, [json.loads(line) for line in body.splitlines()])
        if verb == "tree":
            return self._tree(commit.files, unquote((path or "").strip("/")))
        if verb == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            return self._json([tree_entry(name, commit.files[name]) for name in wanted if name in commit.files])
        self._error(404)

    def _create(self, asked: dict[str, Any]) -> None:
        if not self._known():
            return self._error(401)
        repo_id = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        made = repo_id not in self.server.repos
        if made:
            self.server.repos[repo_id] = Repo(asked.get("visibility") == "private")
        url = f"{self.server.url}/{repo_id}"
        self._json({"url": url, "name": repo_id, "id": repo_id}, 200 if made else 409)

    def _validate(self, content: str) -> None:
        head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            good = head is not None and isinstance(yaml.safe_load(head[1]), dict)
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        self._json({"errors": [], "warnings": [] if good else [{"message": "empty or missing yaml metadata"}]})

    def _preupload(self, there: dict[str, bytes], files: list[dict[str, Any]]) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_lfs(file["path"]) else "regular",
                "shouldIgnore": False,
                "oid": file_oid(file["path"], there[file["path"]]) if file["path"] in there else None,
            }
            for file in files
        ]
        self._json({"files": modes})

    def _lfs_batch(self, asked: dict[str, Any]) -> None:
        if not self._known():
            return self._error(401)
        objects: list[dict[str, Any]] = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}
            objects.append(one if one["oid"] in self.server.objects else one | {"actions": upload})
        self._json({"transfer": "basic", "objects": objects})

    def _store_object(self, object_id: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != object_id:
            return self._error(400)
        self.server.objects[object_id] = body
        self._json({})

    def _commit(self, repo: Repo, repo_id: str, revision: str, lines: list[dict[str, Any]]) -> None:
        if revision not in repo.branches:
            return self._error(404, "RevisionNotFound")
        branch, message = repo.branches[revision], ""
        files = dict(branch[-1].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    return self._error(400)
                files[value["path"]] = self.server.objects[value["oid"]]
            else:  # deletedFile, deletedFolder
                gone = value["path"]
                files = {name: data for name, data in files.items() if name != gone and not name.startswith(f"{gone}/")}
        branch.append(Commit(message, files, branch[-1].sha))
        sha = branch[-1].sha
        self._json({"commitUrl": f"{self.server.url}/{repo_id}/commit/{sha}", "commitOid": sha, "success": True})

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        inside = {name: data for name, data in files.items() if not folder or name.startswith(f"{folder}/")}
        if folder and not inside:
            return self._error(404, "EntryNotFound")
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        entries, folders = [], set()
        for name, data in sorted(inside.items()):
            parents = name[len(folder) + 1 if folder else 0 :].split("/")[:-1]
            folders |= {"/".join([*([folder] if folder else []), *parents[:i]]) for i in range(1, len(parents) + 1)}
            if deep or not parents:
                entries.append(tree_entry(name, data))
        shown = sorted(name for name in folders if deep or name.count("/") == (folder.count("/") + 1 if folder else 0))
        directories = [{"type": "directory", "path": name, "oid": git_oid(name.encode()), "size": 0} for name in shown]
        self._json(directories + entries)

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self.server.repos.get(repo_id)
        if repo is None or (repo.private and not self._known()):
            return self._error(404 if self._known() else 401, "RepoNotFound")
        if (commit := repo.at(revision)) is None:
            return self._error(404, "RevisionNotFound")
        if name not in commit.files:
            return self._error(404, "EntryNotFound", commit.sha)
        data = commit.files[name]
        headers = {"ETag": f'"{file_oid(name, data)}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) is not None:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self._answer(206, data[start:], headers)
        self._answer(200, data, headers)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while (size := int(self.rfile.readline(), 16)) > 0:
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, content: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str = "", sha: str = "") -> None:
        headers = {"X-Error-Message": code or f"the loopback Hub says {status}"}
        headers |= {"X-Error-Code": code} if code else {}
        headers |= {"X-Repo-Commit": sha} if sha else {}
        self._answer(status, json.dumps({"error": headers["X-Error-Message"]}).encode(), headers)

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""
