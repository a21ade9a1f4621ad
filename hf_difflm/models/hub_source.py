"""A model on the Hub as a folder on this disk: checked, in the cache, and without any of its code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import UserError
from .adapters.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .file_names import BESIDE, CARD, CONFIG, GENERATION, INDEX, TOKENIZER_CONFIG, WEIGHTS
from .untrusted import refuse_names, refuse_unsafe

# All that is ever downloaded: no Python file and no pickle, and nothing below the top.
_WEIGHTS = (WEIGHTS, INDEX, "model-*.safetensors", ADAPTER_CONFIG, ADAPTER_WEIGHTS)
_WANTED = (CONFIG, *_WEIGHTS, *BESIDE, "chat_template.json", "*.model", "journal.jsonl", CARD)
# What says whether the weights are wanted at all, and comes first.
_FIRST = [CONFIG, INDEX, ADAPTER_CONFIG, TOKENIZER_CONFIG, GENERATION]
_BELOW = ["*/*", "*\\*"]
# What speaks HTTP for huggingface_hub has changed more than once, and its errors are passed on.
_HTTP = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})


def hub_folder(
    repo_id: str, revision: str | None = None, check_first: Callable[[Path, str], None] | None = None
) -> Path:
    """Download a model, or find it in the cache where the Hub cannot be reached, and check it.

    Token, cache and ``HF_HUB_OFFLINE`` are huggingface_hub's. The folder's name is the commit. Its configurations come first:
    what they say that is refused is refused before the weights are downloaded.

    Args:
        repo_id: ``OWNER/NAME``.
        revision: branch, tag or commit; default: main.
        check_first: raises UserError for a model that is not wanted, given a folder with the configurations alone (and the
            index of the weights, where they are in several files), and what the user knows it as; not called where the
            Hub is not asked.

    Raises:
        UserError: there is no such model or revision, the Hub refuses or fails and it is not in the cache, or the model is
            one that cannot be trusted (:func:`refuse_unsafe`).
    """
    try:
        listed = _listed(repo_id, revision)
        if listed is not None:
            first = Path(snapshot_download(repo_id, revision=revision, allow_patterns=_FIRST, ignore_patterns=_BELOW))
            refuse_unsafe(first, f"the model {repo_id}", listed)
            if check_first is not None:
                check_first(first, f"the model {repo_id}")
            revision = first.name  # the same commit, whatever is pushed meanwhile
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=list(_WANTED), ignore_patterns=_BELOW)
    except Exception as error:
        sentence = hub_sentence(error, f"the model {repo_id}", revision)
        if sentence is None:
            raise
        raise UserError(sentence) from error
    refuse_unsafe(Path(folder), f"the model {repo_id}")
    return Path(folder)


def _listed(repo_id: str, revision: str | None) -> list[str] | None:
    """Names of all files of a repository; None where the Hub does not say, so that the cache must do.

    Raises:
        UserError: a name leads out of the repository.
    """
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        siblings = (
            HfApi().model_info(repo_id, revision=revision).siblings
        )  # unlike the tree, asked for once and not again
    except HFValidationError:
        raise
    except Exception as error:
        if hub_sentence(error, repo_id, revision) is None:
            raise
        return None  # what the download says of it counts: it may find the model in the cache
    names = [file.rfilename for file in siblings or ()]
    refuse_names(names, f"the model {repo_id}")
    return names


def hub_sentence(error: BaseException, what: str, revision: str | None = None) -> str | None:
    """What an error of huggingface_hub or of the network means for the user; None for any other error.

    Args:
        error: the error.
        what: e.g. ``the model owner/name``.
        revision: that was asked for.
    """
    if isinstance(error, HFValidationError):
        return f"{what} is no name of the Hub; give OWNER/NAME"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{what} is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub; unset it once, or give a folder"
    if isinstance(error, LocalEntryNotFoundError):
        if error.__cause__ is not None and (said := hub_sentence(error.__cause__, what, revision)):
            return said
        return (
            f"{what} is not in the cache as a whole, and the Hub cannot be asked; check the network and HF_HUB_OFFLINE"
        )
    if isinstance(error, GatedRepoError):
        return f"{what} is gated: ask for access on its page, and log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, RevisionNotFoundError):
        return f"{what} has no revision {revision or 'main'!r}; give a branch, a tag or a commit that it has"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{what} is not on the Hub, or is private and your token may not see it; check the name, or log in "
            "(`hf auth login`, or HF_TOKEN)"
        )
    if isinstance(error, HfHubHTTPError):
        return _of_status(getattr(error.response, "status_code", None), what)
    if type(error).__module__.partition(".")[0] in _HTTP or isinstance(error, (ConnectionError, TimeoutError)):
        return (
            f"the Hub cannot be reached for {what} ({type(error).__name__}); check the network and HF_ENDPOINT, or take a "
            "model that is in the cache or a folder"
        )
    return None


def _of_status(status: int | None, what: str) -> str:
    if status == 401:
        return f"the Hub refuses your token for {what} (401); log in again (`hf auth login`, or HF_TOKEN)"
    if status == 403:
        return f"the Hub refuses access to {what} (403); use a token that may (`hf auth login`, or HF_TOKEN)"
    if status == 429:
        return f"the Hub gets too many requests for {what} (429); wait some minutes and try again"
    if status is not None and status >= 500:
        return f"the Hub fails on {what} ({status}); try again later"
    return f"the Hub refuses {what} (HTTP {status}); check the name and your token"
