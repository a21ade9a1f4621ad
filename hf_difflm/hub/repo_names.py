"""Names of repositories and branches, checked before anything is built or sent."""

from __future__ import annotations

import re
from pathlib import Path

from ..data.options import SUFFIXES, kind_of
from ..errors import UserError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_BRANCH = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


def check_repo_id(repo_id: str) -> None:
    """Raise UserError where ``repo_id`` cannot be the name of a repository, ``OWNER/NAME``."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        good = repo_id.count("/") == 1
    except HFValidationError:
        good = False
    if not good:
        raise UserError(
            f"--repo-id {repo_id!r} is no name of a repository; give OWNER/NAME of letters, digits, '-', '_' and '.'"
        )


def check_revision(revision: str | None) -> None:
    """Raise UserError where ``revision`` cannot be the name of a branch."""
    if revision is not None and (_BRANCH.fullmatch(revision) is None or ".." in revision or revision.endswith("/")):
        raise UserError(
            f"--revision {revision!r} is no name of a branch; give one of letters, digits, '-', '_', '.' and '/'"
        )


def on_the_hub(name: str) -> bool:
    """Whether a name is that of a repository, ``OWNER/NAME``, and not a file or folder of this machine."""
    path = Path(name).expanduser()
    return bool(_HUB_NAME.fullmatch(name)) and kind_of(path) not in SUFFIXES and not path.parent.exists()
