"""The folder that is uploaded: built whole and looked through for secrets before anything leaves this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models.adapters.folders import is_adapter_folder
from ..runs.comparing.twin import find_twin
from ..runs.journal.checkpoints import EMA_FILE
from .adapter_files import copy_adapter
from .card.metadata import check_license
from .card.page import model_card, write_model_card
from .included import copy_included
from .log_files import CURVES, DASHBOARD, write_log_files
from .remote_code import auto_map, read_config, write_config_and_code
from .repo_names import check_repo_id, check_revision
from .secrets_scan import refuse_secrets
from .source import PushSource, find_source
from .weights import copy_model, read_special_tokens, write_merged


@dataclass(frozen=True)
class PushFolder:
    """A folder that is ready to go up.

    Attributes:
        path: the folder.
        files: its files by their size in bytes, in order.
        source: which weights they are.
    """

    path: Path
    files: dict[str, int]
    source: PushSource


def write_folder(
    source: str | Path,
    target: Path,
    *,
    repo_id: str,
    weights: str | None = None,
    include: Sequence[str] = (),
    revision: str | None = None,
    license_id: str | None = None,
) -> PushFolder:
    """Write exactly what goes up: weights, tokenizer, code, run log, pictures, sample texts and the model card.

    The same run gives the same bytes. Nothing is left at ``target`` where this fails.

    Args:
        source: a run, a checkpoint or a model folder; it is only read.
        target: a folder that does not exist yet, or is empty.
        repo_id: ``OWNER/NAME``, for the card.
        weights: ``ema`` or ``raw``, see :func:`find_source`.
        include: patterns of further files, see :func:`copy_included`.
        revision: branch, for the card.
        license_id: licence for the card, an identifier of the Hub's; None: the card names none.

    Raises:
        UserError: nothing to push, a secret in what would go up, or a folder that cannot be written.
    """
    check_repo_id(repo_id)
    check_revision(revision)
    check_license(license_id)
    found = find_source(source, weights)
    with _built_beside(target) as folder:
        _write_all(found, folder, repo_id, revision, license_id)
        copy_included(Path(source), include, folder)
        refuse_secrets(folder)
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
    return PushFolder(target, dict(sorted(sizes.items())), found)


def write_card(run: Path, repo_id: str, *, revision: str | None = None, license_id: str | None = None) -> None:
    """Write the model card of a run into its own folder, as ``README.md``, with the pictures that it shows.

    Args:
        run: a run's folder.
        repo_id: ``OWNER/NAME``, for the card.
        revision: branch, for the card.
        license_id: licence for the card.

    Raises:
        UserError: it has no weights yet, or a licence that the Hub does not know.
    """
    check_license(license_id)
    with tempfile.TemporaryDirectory(prefix=".card-", dir=run) as place:
        folder = Path(place)
        source = find_source(run)
        config = _write_model(source, folder) if is_adapter_folder(source.folder) else read_config(source.folder)
        needs_code = bool(auto_map(config["model_type"]))
        _write_evidence(source, config, folder, repo_id, revision, license_id, needs_code)
        for name in ("README.md", CURVES, DASHBOARD):
            if (folder / name).is_file():
                os.replace(folder / name, run / name)


def _write_all(source: PushSource, folder: Path, repo_id: str, revision: str | None, license_id: str | None) -> None:
    config = _write_model(source, folder)
    needs_code = write_config_and_code(config, folder)
    _write_evidence(source, config, folder, repo_id, revision, license_id, needs_code)


def _write_evidence(
    source: PushSource,
    config: dict[str, Any],
    folder: Path,
    repo_id: str,
    revision: str | None,
    license_id: str | None,
    needs_code: bool,
) -> None:
    """Write what says how good the weights are and how to use them: log, pictures, card and adapter."""
    adapter = copy_adapter(source, folder)
    twin = find_twin(source.run) if source.run is not None else None
    if source.run is not None:
        write_log_files(source.run, twin, folder)
    card = model_card(
        source,
        config,
        repo_id,
        revision=revision,
        twin=twin,
        needs_code=needs_code,
        license_id=license_id,
        adapter=adapter,
    )
    write_model_card(folder, card)


def _write_model(source: PushSource, folder: Path) -> dict[str, Any]:
    """Write weights and tokenizer, an adapter merged into its network, and return the configuration."""
    if not is_adapter_folder(source.folder):
        config = read_config(source.folder)
        copy_model(source.folder, folder, source.average)
    else:
        if source.is_averaged is False and (source.folder / EMA_FILE).exists():
            raise UserError(
                f"{source.folder} is an adapter, of which the moving average goes up; leave out --weights raw"
            )
        write_merged(source.folder, folder)
        config = read_config(folder)
    if config["model_type"] == "masked_diffusion":
        read_special_tokens(folder)
    return config


@contextmanager
def _built_beside(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` in one step at the end, and is deleted on an exception."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already and not an empty folder; delete it or give another --export-dir")
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes it private to the user
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    except OSError as error:
        if error.strerror is None:
            raise
        where = error.filename or target
        raise UserError(
            f"{where} cannot be read or written ({error.strerror}); free it, or give another --export-dir"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(mask)
    return mask
