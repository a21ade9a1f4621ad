"""``hf-difflm push``: a model with its evidence to the Hub, or into a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..hub.folder import PushFolder


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run, checkpoint or model folder")],
    repo_id: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="repository on the Hub; made where it is not there")
    ],
    weights: Annotated[
        str | None,
        typer.Option(metavar="ema|raw", help="moving average or raw weights; default: those that were evaluated"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="branch to push to, made where it is not there; default: main")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="a further file of the run folder, or a glob of them; may be given again"),
    ] = None,
    license_id: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="licence for the model card: apache-2.0, mit, ...; default: the card names none",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="write the folder that would be uploaded, and stop")
    ] = False,
    export_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="where to write that folder, and keep it; default: NAME-push, here"),
    ] = None,
) -> None:
    """Push a model to the Hub: weights, tokenizer, code, run log, dashboard, samples and a model card.

    It loads there with transformers alone. Of a run its best weights go up; nothing else of the folder does unless asked,
    and nothing that looks like a token or a key. Prints the address of the commit; with --dry-run the folder.
    """
    from ..hub.folder import write_folder
    from ..hub.repo_names import check_repo_id

    check_repo_id(repo_id)
    if dry_run and private:
        raise UserError("--private says how to make a repository, and --dry-run makes none; leave one of them out")
    with tempfile.TemporaryDirectory(prefix="hf-difflm-push-") as temporary:
        place = export_dir
        if place is None:
            place = Path(f"{repo_id.rpartition('/')[2]}-push") if dry_run else Path(temporary, "folder")
        folder = write_folder(
            run,
            place,
            repo_id=repo_id,
            weights=weights,
            include=include or (),
            revision=revision,
            license_id=license_id,
        )
        if dry_run:
            _print_files(folder)
            return
        from ..hub.upload import upload

        print(upload(folder.path, repo_id, private=private, revision=revision))


def _print_files(folder: PushFolder) -> None:
    for name, size in folder.files.items():
        print(f"{size:>12,}  {name}")
    print(folder.path)
