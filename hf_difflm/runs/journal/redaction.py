"""Keep secrets out of the run log."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

REDACTED = "[redacted]"

_SECRET_KEY = re.compile(r"token|key|password|passwd|passphrase|secret|credential", re.IGNORECASE)
_ALWAYS_SECRET = re.compile(r"password|passwd|passphrase|secret|credential", re.IGNORECASE)
# Names of training, where "token" is a piece of text and "key" a part of attention or of a mapping.
_HARMLESS_KEY = re.compile(
    r"tokeni[sz]|key_?value|key_?(cache|states|dim|size)|(to|of)_keys|keys_to|keyword|keyboard"
    r"|(?<!access_)(?<!api_)(?<!auth_)(?<!hub_)(?<!hf_)tokens"
    r"|token_(ids?|count|type|limit)(_|$)"
    r"|(pad|bos|eos|unk|sep|cls|mask|decoder_start|image|special)_token",
    re.IGNORECASE,
)
# What the tokens of the common services look like, and a password in a URL.
_SECRET_VALUE = re.compile(r"\b(?:hf|gh[pousr]|github_pat|glpat|sk|wandb_v\d)[_-][A-Za-z0-9_-]{20,}")
_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?|true|false|none|null", re.IGNORECASE)


def is_secret(key: str, value: Any) -> bool:
    """Say whether a setting is a secret: a key that names a token, key, password or secret, unless it is harmless.

    Numbers, booleans and nothing are no tokens or keys (``max_new_tokens``, ``mask_token_id``), nor are special tokens.
    """
    if value is None or isinstance(value, bool) or value == "" or not _SECRET_KEY.search(key):
        return False
    if _ALWAYS_SECRET.search(key):
        return True
    if isinstance(value, (int, float)) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        return False
    return not _HARMLESS_KEY.search(key.replace("-", "_"))


def redact(value: Any) -> Any:
    """Return plain JSON data with secrets replaced by ``"[redacted]"``: known by key, look or the environment."""
    return _redact(value, environment_secrets())


def redact_command(arguments: Sequence[str]) -> str:
    """Return a command line as one shell-quoted string without secrets; the program is named without its folder.

    Understands ``--hub-token X``, ``--hub-token=X`` and ``HF_TOKEN=X``.
    """
    secrets = environment_secrets()
    words: list[str] = []
    for place, argument in enumerate(arguments):
        previous = arguments[place - 1] if place else ""
        name, equals, value = argument.partition("=")
        if place == 0:
            words += _program(argument)
        elif previous.startswith("-") and "=" not in previous and is_secret(previous.lstrip("-"), argument):
            words.append(REDACTED)
        elif equals and is_secret(name.lstrip("-"), value):
            words.append(f"{name}={REDACTED}")
        else:
            words.append(_redact_text(argument, secrets))
    return shlex.join(words).replace(f"'{REDACTED}'", REDACTED)


def _redact(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: REDACTED if is_secret(key, item) else _redact(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact(item, secrets) for item in value]
    return _redact_text(value, secrets) if isinstance(value, str) else value


def _redact_text(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    text = _URL_PASSWORD.sub(f"{REDACTED}@", text)
    return _SECRET_VALUE.sub(REDACTED, text)


def environment_secrets() -> list[str]:
    """The values of variables such as HF_TOKEN; short values are left out, for they occur in ordinary words."""
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= 12 and os.sep not in value and is_secret(name, value)
    ]


def _program(argument: str) -> list[str]:
    path = PurePath(argument)
    if path.name == "__main__.py":
        return ["python", "-m", path.parent.name]
    return ["python", path.name] if path.suffix == ".py" else [path.name]
