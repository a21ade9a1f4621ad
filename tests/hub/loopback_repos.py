"""What the loopback Hub holds: repositories, their branches and commits, and the ids that git and LFS give files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

_LFS = (".safetensors", ".bin", ".pt", ".png", ".arrow")


@dataclass
class Commit:
    """One commit of a repository: its files by path, and its id."""

    message: str
    files: dict[str, bytes]
    parent: str = ""

    @property
    def sha(self) -> str:
        contents = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files.items())
        return hashlib.sha1(repr((self.message, self.parent, contents)).encode()).hexdigest()


@dataclass
class Repo:
    """A repository: its branches, each a list of commits with the newest at the end."""

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [Commit("initial commit", {})]})

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch's name or a commit's id."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((one for branch in self.branches.values() for one in branch if one.sha == revision), None)


def is_lfs(name: str) -> bool:
    """Whether a file is stored as a large one."""
    return name.endswith(_LFS)


def git_oid(data: bytes) -> str:
    """The id of a git blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def file_oid(name: str, data: bytes) -> str:
    """The id by which huggingface_hub knows that a file has not changed."""
    return hashlib.sha256(data).hexdigest() if is_lfs(name) else git_oid(data)


def tree_entry(name: str, data: bytes) -> dict[str, Any]:
    """A file as the tree of a repository lists it."""
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_oid(data)}
    if is_lfs(name):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
