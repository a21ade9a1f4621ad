"""Pushing to the Hub while the model is trained: what ``hf-difflm push`` would send, in the background, never fatal."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from ...callbacks.reports import reports_of
from ...errors import UserError, first_line
from ...hub.card.metadata import check_license
from ...hub.folder import write_card, write_folder
from ...hub.repo_names import check_repo_id
from ...hub.secrets_scan import refuse_secrets
from ...hub.upload import upload, upload_sentence
from ...runs.journal.schema import EventRecord
from .base import TrainerPart

logger = logging.getLogger(__name__)

STAGING = "push.tmp"
"""Folder in the output folder where what goes up is put together."""
PUSHED, PUSH_FAILED = "pushed", "push_failed"
_LAST = "last-checkpoint"
# What a later try may well get: too many requests, no answer, a fault of the Hub's.
_PASSING = ("(429)", "broke off", "the Hub failed")


class PushingPart(TrainerPart):
    """Pushes :class:`DiffusionTrainer`'s model by the ``hub_*`` arguments of transformers.

    Each push makes the repository what the run stands for at that moment: its best weights (where it was never evaluated,
    those of its newest checkpoint), with the code to load them, the run log and the model card. ``hub_strategy`` says when:
    ``every_save``, ``checkpoint`` (and the newest checkpoint as ``last-checkpoint/``, to go on elsewhere),
    ``all_checkpoints``, or only at the ``end``, where the caller has ``push_to_hub()`` called. A push that fails is a warning
    and an event of the run log, and the next one makes up for it.
    """

    hub_model_id: Any
    push_in_progress: Any
    _pushes: list[tuple[int, Future]]
    _uploads: HfApi

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, before anything is trained.

        Raises:
            UserError: its name is none, or the Hub refuses; where the Hub only fails or cannot be reached, it is tried again
                at each push.
        """
        if not self.is_world_process_zero():
            return
        _named("--license", "--hub-license", check_license, self.args.hub_license)
        self._pushes = []
        self._uploads = HfApi()  # its thread uploads one thing after the other
        self.push_in_progress = None
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir or ".").absolute().name
        if "/" in self.hub_model_id:
            _named("--repo-id", "--hub-model-id", check_repo_id, self.hub_model_id)
        private = self.args.hub_private_repo if private is None else private
        try:
            made = HfApi(token=token or self.args.hub_token).create_repo(
                self.hub_model_id, private=private, exist_ok=True
            )
            self.hub_model_id = made.repo_id
        except Exception as error:
            sentence = upload_sentence(error, self.hub_model_id)
            if sentence is None:
                raise
            if not any(words in sentence for words in _PASSING) or "/" not in self.hub_model_id:
                raise UserError(f"{sentence}, or leave out --push-to-hub") from error
            logger.warning("%s; training goes on", sentence)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        token, self.args.hub_token = self.args.hub_token, None  # the arguments are saved, too, and may be shared
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing yet: the Trainer calls it before the checkpoint is whole."""

    def _push_saved(self, checkpoint: Path) -> None:
        """Push in the background, once a checkpoint is good; skipped while the push before is not done."""
        if not self.args.push_to_hub or not self.is_world_process_zero():
            return
        self._tell_pushes()
        if self.args.hub_strategy == HubStrategy.END or (self._pushes and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        wanted: list[Callable[[], Callable[[], Any]]] = [lambda: self._model_job(message)]
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            wanted.append(lambda: self._checkpoint_job(checkpoint, message))
        jobs: list[Callable[[], Any]] = []
        for prepare in wanted:
            try:
                jobs.append(prepare())
            except Exception as error:  # whatever it is, it is no reason to stop training, nor to leave the other out
                self._tell_push(self.state.global_step, error)
        futures = [self._uploads.run_as_future(job) for job in jobs]
        self._add_pushes(futures)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Push what the run in the output folder stands for; on world process zero, others do nothing.

        Args:
            commit_message: of the commit.
            blocking: wait until it is there.
            token: default: ``args.hub_token``.
            revision: branch; default: ``args.hub_revision``.
            private: make a new repository private; default: ``args.hub_private_repo``.
            kwargs: of the stock model card: refused.

        Returns:
            Address of the commit, or its ``Future``.

        Raises:
            UserError: nothing was saved or evaluated yet, a secret in what would go up, the Hub refuses, or ``kwargs``.
        """
        _refuse_card_arguments(kwargs)
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self._finish_current_push()
        job = self._model_job(commit_message or "End of training", token=token, revision=revision, private=private)
        step = self.state.global_step
        if not blocking:
            future = self._uploads.run_as_future(job)
            self._add_pushes([future])
            return future
        try:
            address = job()
        except Exception as error:
            self._tell_push(step, error, warn=False)
            raise
        self._tell_push(step, None, address)
        return address

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write ``README.md`` in the output folder: the card that a push sends, with its pictures and the run log.

        Args:
            args, kwargs: of the stock model card: refused.

        Raises:
            UserError: nothing was saved or evaluated yet, or there are arguments.
        """
        _refuse_card_arguments({**{str(value): value for value in args}, **kwargs})
        if not self.is_world_process_zero():
            return
        repo_id = str(self.hub_model_id or self.args.hub_model_id or "")
        if "/" not in repo_id:
            repo_id = f"OWNER/{repo_id or self._folder.absolute().name}"
        write_card(self._folder, repo_id, revision=self.args.hub_revision, license_id=self.args.hub_license)

    def push_at_end(self) -> None:
        """The last push of a run: the finished log, the last dashboard; its failure is a warning, too."""
        if not self.args.push_to_hub or not self.is_world_process_zero():
            return
        try:
            print(f"pushed: {self.push_to_hub()}")
        except Exception as error:
            again = f"hf-difflm push {self._folder} --repo-id {self.hub_model_id}"
            logger.warning("%s; the run is whole, and goes up by: %s", _sentence(error, str(self.hub_model_id)), again)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        if self.is_world_process_zero():
            self._tell_pushes()

    # ---- what goes up ----

    def _model_job(
        self, message: str, token: str | None = None, revision: str | None = None, private: bool | None = None
    ) -> Callable[[], str]:
        """Write the folder now, and return what uploads it and deletes it."""
        repo_id, revision = str(self.hub_model_id), revision or self.args.hub_revision
        if "/" not in repo_id:
            raise UserError(f"{repo_id} is no name of a repository; give --hub-model-id OWNER/NAME")
        token = token or self.args.hub_token
        private = self.args.hub_private_repo if private is None else private
        target = self._staged(f"model-{self.state.global_step}")
        write_folder(self._folder, target, repo_id=repo_id, revision=revision, license_id=self.args.hub_license)

        def job() -> str:
            try:
                return upload(target, repo_id, private=bool(private), revision=revision, message=message, token=token)
            finally:
                self._unstage(target)

        return job

    def _checkpoint_job(self, checkpoint: Path, message: str) -> Callable[[], str]:
        """The whole checkpoint: linked, since it may be deleted before it has gone up."""
        repo_id, revision, token = str(self.hub_model_id), self.args.hub_revision, self.args.hub_token
        is_last = self.args.hub_strategy == HubStrategy.CHECKPOINT
        target = self._staged(checkpoint.name)
        shutil.copytree(checkpoint, target, copy_function=_link)
        refuse_secrets(target)

        def job() -> str:
            try:
                commit = HfApi(token=token).upload_folder(
                    repo_id=repo_id,
                    folder_path=target,
                    path_in_repo=_LAST if is_last else checkpoint.name,
                    commit_message=f"{message}, checkpoint",
                    revision=revision,
                    delete_patterns="*" if is_last else None,
                )
                return str(commit.commit_url)
            finally:
                self._unstage(target)

        return job

    def _staged(self, name: str) -> Path:
        place = self._folder / STAGING / name
        shutil.rmtree(place, ignore_errors=True)  # of a push that was killed
        return place

    def _unstage(self, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        if target.parent.is_dir() and not any(target.parent.iterdir()):
            target.parent.rmdir()

    # ---- how it went ----

    def _add_pushes(self, futures: list[Future]) -> None:
        self._pushes += [(self.state.global_step, future) for future in futures]
        jobs: Any = [future for _, future in self._pushes]
        self.push_in_progress = PushInProgress(jobs)

    def _tell_pushes(self) -> None:
        """Tell of the pushes that are done; on the training thread, where the run log is written."""
        done = [(step, future) for step, future in getattr(self, "_pushes", []) if future.done()]
        self._pushes = [pair for pair in getattr(self, "_pushes", []) if pair not in done]
        for step, future in done:
            error = future.exception()
            self._tell_push(step, error, None if error else future.result())

    def _tell_push(self, step: int, error: BaseException | None, address: str | None = None, warn: bool = True) -> None:
        if error is None:
            reports_of(self.state).publish(EventRecord(event=PUSHED, iter=step, message=address))
            return
        sentence = _sentence(error, str(self.hub_model_id))
        if warn:
            logger.warning("the push of step %d failed, and training goes on: %s", step, sentence)
        reports_of(self.state).publish(EventRecord(event=PUSH_FAILED, iter=step, message=sentence))


def _refuse_card_arguments(given: Mapping[str, Any]) -> None:
    """The card is written from the run log, and would be without them."""
    if given:
        raise UserError(
            f"the model card is written from the run log and takes no {', '.join(given)}; its licence is hub_license in the "
            "arguments, and what else it is to say is added to README.md"
        )


def keeps_no_weights(save_strategy: Any, eval_strategy: Any) -> bool:
    """Whether a run leaves nothing that could be pushed."""
    return all(getattr(strategy, "value", strategy) == "no" for strategy in (save_strategy, eval_strategy))


def _named(theirs: str, ours: str, check: Callable[[Any], None], value: Any) -> None:
    """Check a value of `push` whose flag has another name here."""
    try:
        check(value)
    except UserError as error:
        raise UserError(str(error).replace(theirs, ours)) from None


def _sentence(error: BaseException, repo_id: str) -> str:
    if isinstance(error, UserError):
        return str(error)
    return upload_sentence(error, repo_id) or f"{type(error).__name__}: {first_line(error)}"


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
