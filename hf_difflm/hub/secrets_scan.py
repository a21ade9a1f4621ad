"""No token and no key goes up: a look at every text file before it does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..runs.journal.redaction import environment_secrets

# What the credentials of the common services look like. Where a prefix alone is an ordinary word, a digit must follow.
_LOOKS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "a Weights & Biases key": r"\bwandb_v\d_[A-Za-z0-9_]{20,}|\bwandb[^\n]{0,60}?\b[0-9a-f]{40}\b",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret key": r"\baws_secret_access_key\W{1,6}[A-Za-z0-9/+]{40}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{20,}",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an API key": r"\bsk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a password in a URL": r"://[^/@\s:\"']+:[^/@\s\"']+@",
}
_PATTERNS = {
    name: re.compile(look, re.IGNORECASE if "wandb" in look or "aws" in look else 0) for name, look in _LOOKS.items()
}
_OWN = "the value of a secret environment variable or your own token"


@dataclass(frozen=True)
class Finding:
    """A secret: in which file (relative), in which line (from 1), and what it looks like; never the secret itself."""

    file: str
    line: int
    kind: str


def refuse_secrets(folder: Path) -> None:
    """Look through a folder that is about to go up.

    Raises:
        UserError: a text file in it holds what looks like a token or a key.
    """
    found = list(find_secrets(folder))
    if found:
        first = found[0]
        more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
        raise UserError(
            f"nothing was uploaded: {first.file}, line {first.line}, holds what looks like {first.kind}{more}; take it out "
            "of the run (and revoke it, if it is real), or leave the file out"
        )


def find_secrets(folder: Path) -> Iterator[Finding]:
    """Yield what looks like a secret in the text files below a folder, and in the headers of its safetensors."""
    own = _own_secrets()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            for number, line in enumerate(_lines(path), start=1):
                for kind in _kinds(line, own):
                    yield Finding(name, number, kind)


def _kinds(line: str, own: list[str]) -> Iterator[str]:
    if any(secret in line for secret in own):
        yield _OWN
        return
    for kind, pattern in _PATTERNS.items():
        if pattern.search(line):
            yield kind


def _own_secrets() -> list[str]:
    from huggingface_hub import get_token

    token = get_token()
    return environment_secrets() + ([token] if token else [])


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file; of safetensors the header; of other binary files (with a zero byte) none."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            yield file.read(min(size, path.stat().st_size)).decode("utf-8", "replace")
        return
    with path.open("rb") as file:
        if b"\0" in file.read(8192):
            return
        file.seek(0)
        for line in file:
            yield line.decode("utf-8", "replace")
