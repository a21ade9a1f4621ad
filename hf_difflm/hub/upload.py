"""The upload, by huggingface_hub, and its failures as one sentence each."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import UserError

# Weights that an earlier push cut into other files would be loaded instead of those that go up now.
_REPLACED = ["model*.safetensors", "model.safetensors.index.json"]
_AGAIN = "nothing of it was committed, and the same command sends what is missing"


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload by hf-difflm push",
    token: str | None = None,
) -> str:
    """Create the repository and the branch where they are not there yet, and commit the folder in one commit.

    Args:
        folder: what goes up, see :func:`hf_difflm.hub.folder.write_folder`; it stays as it is.
        repo_id: ``OWNER/NAME``.
        private: make a new repository private.
        revision: branch; None: main.
        message: of the commit.
        token: default: the one huggingface_hub finds.

    Returns:
        Address of the commit.

    Raises:
        UserError: the upload failed, or a repository that shall be private is public already.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and api.model_info(repo_id).private is False:
            raise UserError(
                f"{repo_id} is there already and public, so --private would not hold; make it private on its page, or give "
                "another --repo-id"
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=_REPLACED,
        )
    except UserError:
        raise
    except Exception as error:  # of the library, of HTTP in several libraries, or of the threads that upload
        if (sentence := upload_sentence(error, repo_id)) is None:
            raise
        raise UserError(sentence) from error
    return str(commit.commit_url)


def upload_sentence(error: BaseException, repo_id: str) -> str | None:
    """Return what a failed upload means for the user; None for an error that is neither the Hub's nor the network's."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__
    if any(isinstance(one, LocalTokenNotFoundError) for one in chain):
        return f"no token to push to {repo_id} with; log in (`hf auth login`) or set HF_TOKEN"
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return (
            f"{repo_id} cannot be pushed to while HF_HUB_OFFLINE is set; unset it, or write the folder with --dry-run"
        )
    if isinstance(error, ValueError) and "README.md" in str(error):
        said = " ".join(str(error).split())
        return (
            f"cannot push to {repo_id}: the Hub refuses the head of the model card ({said}); look at it with --dry-run"
        )
    answered = next((one for one in chain if isinstance(one, HfHubHTTPError)), None)
    if answered is not None:
        status = getattr(answered.response, "status_code", None)
        return _of_status(404 if isinstance(answered, RepositoryNotFoundError) and status != 401 else status, repo_id)
    from ..models.hub_source import hub_sentence  # brings torch along, which an upload has no use for

    if any(hub_sentence(one, repo_id) is not None for one in chain):  # the network's: other kinds are told above
        root = type(chain[-1]).__name__
        return f"the upload to {repo_id} broke off ({root}): {_AGAIN}; check the network and HF_ENDPOINT"
    if isinstance(error, (KeyError, TypeError)):
        return (
            f"the Hub gave an answer on {repo_id} that huggingface_hub cannot read ({error!r}); try again, or update it"
        )
    return None


def _of_status(status: int | None, repo_id: str) -> str:
    told = {
        401: "the Hub does not accept your token (401); log in (`hf auth login`) or set HF_TOKEN, and push again",
        403: "your token may not write there (403); use one with write access to it",
        404: "the Hub knows no such place that your token may see (404); check --repo-id and --revision",
        409: f"somebody else wrote there at the same time (409): {_AGAIN}",
        412: f"somebody else wrote there at the same time (412): {_AGAIN}",
        413: "it is too large for the Hub (413); leave files out",
        429: f"too many requests (429): {_AGAIN} in some minutes",
    }
    if status in told:
        return f"cannot push to {repo_id}: {told[status]}"
    if status is not None and status >= 500:
        return f"cannot push to {repo_id}: the Hub failed ({status}): {_AGAIN} when it is well again"
    return f"cannot push to {repo_id}: the Hub refused it (HTTP {status}); check --repo-id and your token"
